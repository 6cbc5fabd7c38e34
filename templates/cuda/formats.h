/* Weight formats (FORMAT.md, section 3): where a block keeps its fields, and what a field is worth.
 *
 * A format of integers is a struct with
 *     LOADS               16-byte pieces of fields that four rows of a block (one group of 32 columns) hold
 *     BLOCK               bytes of a block: 16 scales, then the fields
 *     MULTIPLE, OFFSET    value of a field n: scale × (MULTIPLE × n − OFFSET)
 *     shift(j)            the bit where field<j> leaves the field of column j
 *     field<j>(words)     that field in place, all other bits zero; words: one row's 32-bit words of the block
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
enum { FLOAT_BITS = 24 }; /* a word below 2^24 is a float of value word × 2^-149 */
enum { EXPONENT = 120 };  /* |x| ≤ 127 < 2^7 leaves 2^(EXPONENT + 7) below infinity */

/* 8, 4 or 2 bits that fill bytes: a unit is a word, and the fields of one byte lie 4 columns apart. */
template <int BITS, int MULTIPLE_, int OFFSET_, unsigned FLIP>
struct Packed {
    enum { LOADS = BITS, BLOCK = SCALE_BYTES + TILE * GROUP * BITS / 8, MULTIPLE = MULTIPLE_, OFFSET = OFFSET_ };
    enum { PER_UNIT = 32 / BITS };
    static __device__ __forceinline__ constexpr int place(int j) { /* bit of column j in its word */
        return 8 * (j % 4) + 8 - BITS * (j % PER_UNIT / 4 + 1);
    }
    static __device__ __forceinline__ constexpr int shift(int j) {
        return place(j) + BITS > FLOAT_BITS ? place(j) - 8 : place(j);
    }
    template <int J>
    static __device__ __forceinline__ unsigned field(const unsigned (&words)[LOADS]) {
        const unsigned word = words[J / PER_UNIT] ^ FLIP; /* two's complement to offset binary */
        return (place(J) + BITS > FLOAT_BITS ? word >> 8 : word) & (((1u << BITS) - 1u) << shift(J));
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

template <class F>
N730_DEVICE long long block_tile_bytes(int cols) {
    return (long long)((cols + GROUP - 1) / GROUP) * F::BLOCK;
}
#endif
