/* Weight formats (FORMAT.md, section 3): where a block keeps its fields, and what a field is worth.
 *
 * A format of integers is a struct with
 *     LOADS               16-byte pieces of fields that four rows of a block (one group of 32 columns) hold
 *     FIRST, SECOND       bits of its planes
 *     CODED               whether scales are codes (coded.h)
 *     MULTIPLE, OFFSET    value of a field n: scale × (MULTIPLE × t(n) − OFFSET)
 *     level(n)            t(n), for one field that was taken out
 *     prepare(words)      done once to one row's 32-bit words of a block
 *     parts<p>(words, v)  what the fields at places p … p + 7 are cut from
 *     field<p>(v)         t of the field at place p where it lies, all other bits zero
 *     place(j), shift(j)  the place of column j, and the bit where its field lies then
 *
 * The trick that makes Kepler fast: a field left where it is, at bit s of a word with nothing above bit 23, *is* a float:
 * the denormal n × 2^(s − 149). One AND per weight therefore replaces shift, mask and conversion, and one fused
 * multiply-add with the activation, held as x × 2^(120 − s), adds exactly n × x × 2^-29. (Integers of Kepler are
 * slow: shifts go at a third of the rate of logic and floats, multiplications and conversions at a sixth.) */
#ifndef N730_CUDA_FORMATS_H
#define N730_CUDA_FORMATS_H
#include "device.h"

enum { TILE = 16, GROUP = 32 };
enum { SCALE_BYTES = 2 * TILE };
enum { SUPER = 8 }; /* groups that share an FP16 in the formats with coded scales */
enum { SUPER_HEADER = SCALE_BYTES + TILE * SUPER / 2 };
enum { FLOAT_BITS = 24 }; /* a word below 2^24 is a float of value word × 2^-149 */
enum { EXPONENT = 120 };  /* |x| ≤ 127 < 2^7 leaves 2^(EXPONENT + 7) below infinity */

/* 8, 4 or 2 bits that fill bytes: a unit is a word, and the fields of one byte lie 4 columns apart. The lower three bytes of
 * a word are floats as they are; the upper bytes of two words come down together, to bytes 0 and 1 of a third. */
template <int BITS, int MULTIPLE_, int OFFSET_, unsigned FLIP>
struct Packed {
    enum { LOADS = BITS, FIRST = BITS, SECOND = 0, CODED = 0, MULTIPLE = MULTIPLE_, OFFSET = OFFSET_, PARTS = BITS + BITS / 2 };
    enum { PER_UNIT = 32 / BITS };
    static __device__ __forceinline__ constexpr int place(int j) { return j; }
    static __device__ __forceinline__ constexpr int shift(int j) {
        return 8 * (j % 4 < 3 ? j % 4 : j / PER_UNIT % 2) + 8 - BITS * (j % PER_UNIT / 4 + 1);
    }
    static __device__ __forceinline__ int level(int n) { return n ^ (int)(FLIP & 0xff); }
    static __device__ __forceinline__ void prepare(unsigned (&)[LOADS]) {}
    template <int P>
    static __device__ __forceinline__ void parts(const unsigned (&words)[LOADS], unsigned (&v)[PARTS]) {
#pragma unroll
        for (int u = 0; u < LOADS; u++) v[u] = words[u] ^ FLIP; /* two's complement to offset binary */
#pragma unroll
        for (int u = 0; u < LOADS; u += 2) v[LOADS + u / 2] = __byte_perm(v[u], v[u + 1], 0x7373);
    }
    template <int J>
    static __device__ __forceinline__ unsigned field(const unsigned (&v)[PARTS]) {
        return v[J % 4 < 3 ? J / PER_UNIT : LOADS + J / PER_UNIT / 2] & (((1u << BITS) - 1u) << shift(J));
    }
};
typedef Packed<8, 1, 128, 0x80808080u> Int8;
typedef Packed<4, 1, 8, 0u> Int4;
typedef Packed<2, 2, 3, 0u> Int2;

struct F16 {
    static __device__ __forceinline__ float value(unsigned short bits) { return half_to_float(bits); }
};
struct Bf16 {
    static __device__ __forceinline__ float value(unsigned short bits) { return __uint_as_float((unsigned)bits << 16); }
};

N730_DEVICE float power_of_two(int e) { return __uint_as_float((unsigned)(e + 127) << 23); } /* −126 … 127 */

N730_DEVICE int groups_of(int cols) { return (cols + GROUP - 1) / GROUP; }

/* Bytes of a block's fields, from one group's fields to the next within SUPER groups, and from SUPER groups to the next. */
template <class F>
struct Bytes {
    enum { FIELDS = TILE * GROUP / 8 * (F::FIRST + F::SECOND) };
    enum { STEP = F::CODED ? FIELDS : SCALE_BYTES + FIELDS };
    enum { SUPERS = SUPER * STEP + (F::CODED ? SUPER_HEADER : 0) };
};

/* Bytes of a tile, and from its start to the fields of group g. */
template <class F>
N730_DEVICE long long fields_at(int g) {
    return F::CODED ? (long long)(g / SUPER + 1) * SUPER_HEADER + (long long)g * Bytes<F>::FIELDS
                    : (long long)g * Bytes<F>::STEP + SCALE_BYTES;
}
template <class F>
N730_DEVICE long long block_tile_bytes(int cols) {
    return fields_at<F>(groups_of(cols)) - (F::CODED ? (groups_of(cols) % SUPER ? 0 : SUPER_HEADER) : SCALE_BYTES);
}
#endif
