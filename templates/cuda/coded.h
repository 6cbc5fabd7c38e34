/* Formats whose scales are 4-bit codes times an FP16 of eight groups (FORMAT.md, section 3), two ways to make fields of them.
 *
 * Either way eight fields come as three words of bytes: the lower three bytes of v[0] and v[1] are floats as formats.h says,
 * and v[2] holds the two upper ones, brought down by one byte permutation. The eight are columns of two quads (four
 * neighbouring columns, one a byte of a word), whose order, place(j), is the one in which they fall out. */
#ifndef N730_CUDA_CODED_H
#define N730_CUDA_CODED_H
#include "formats.h"

/* FIRST bits and SECOND bits of levels n − OFFSET or uneven ones. AT: where a field lies in its byte; PLACES: a digit for each byte
 * of the first quad and then of the second; ACROSS: whether the two are two apart, in a plane of 2 bits. */
template <int FIRST_, int SECOND_, int MULTIPLE_, int OFFSET_, int AT, int BITS, unsigned PLACES, bool ACROSS>
struct Eights {
    enum { LOADS = FIRST_ + SECOND_, FIRST = FIRST_, SECOND = SECOND_, CODED = 1, MULTIPLE = MULTIPLE_, OFFSET = OFFSET_, PARTS = 3 };
    static __device__ __forceinline__ constexpr int place(int j) {
        return ACROSS ? 8 * (j / 16 * 2 + j / 4 % 2) + (int)(PLACES >> (4 * (j / 8 % 2 * 4 + j % 4)) & 15)
                      : 8 * (j / 8) + (int)(PLACES >> (4 * (j % 8)) & 15);
    }
    static __device__ __forceinline__ constexpr int byte(int p) { return (int)(0x20210210u >> (4 * (p % 8)) & 15); }
    static __device__ __forceinline__ constexpr int shift(int j) { return AT + 8 * byte(place(j)); }
    static __device__ __forceinline__ void prepare(unsigned (&)[LOADS]) {}
    template <int P>
    static __device__ __forceinline__ unsigned field(const unsigned (&v)[PARTS]) {
        return v[P % 8 / 3] & (((1u << BITS) - 1u) << (AT + 8 * byte(P)));
    }
    static __device__ __forceinline__ void finish(unsigned (&v)[PARTS]) { v[2] = permute(v[0], v[1], 0x7733u); }
};

/* 4 bits and 2 or 1 more: the lower ones are put right below the upper ones. */
template <int SECOND, int OFFSET>
struct Merged : Eights<4, SECOND, 1, OFFSET, 4 - SECOND, 4 + SECOND, 0x75436210u, false> {
    template <int Q> /* quad, of the group's eight */
    static __device__ __forceinline__ unsigned quad(const unsigned (&words)[4 + SECOND]) {
        enum { RIGHT = 4 - SECOND * (Q % (8 / SECOND)) };
        const unsigned upper = Q % 2 ? words[Q / 2] << 4 : words[Q / 2], lower = words[4 + Q * SECOND / 8];
        const unsigned there = RIGHT > 0 ? lower >> (RIGHT > 0 ? RIGHT : 0) : lower << (RIGHT > 0 ? 0 : -RIGHT);
        return (upper & 0xf0f0f0f0u) | (there & 0x01010101u * (16 - (16 >> SECOND)));
    }
    template <int P>
    static __device__ __forceinline__ void parts(const unsigned (&words)[4 + SECOND], unsigned (&v)[3]) {
        v[0] = quad<P / 4>(words);
        v[1] = quad<P / 4 + 1>(words);
        Merged::finish(v);
    }
    static __device__ __forceinline__ int level(int n) { return n; }
};
typedef Merged<2, 32> Int6;
typedef Merged<1, 16> Int5;

/* Four fields that are nibbles of a word become four bytes of a table by one permutation. */
struct Nl4 : Eights<4, 0, 1, 29, 0, 6, 0x53207461u, false> {
    static __device__ __forceinline__ unsigned low(unsigned s) { return permute(0x100c0700u, 0x1c191613u, s); } /* 0, or t where n < 8 */
    static __device__ __forceinline__ unsigned high(unsigned s) { return permute(0x2724211eu, 0x3a332e2au, s); } /* if n ^ 8 is given */
    template <int P>
    static __device__ __forceinline__ void parts(const unsigned (&words)[4], unsigned (&v)[3]) {
        const unsigned n = words[P / 8], other = n ^ 0x88888888u; /* a nibble from 8 on spreads the sign of its byte: 0 */
        v[0] = low(n) | high(other);
        v[1] = low(n >> 16) | high(other >> 16);
        finish(v);
    }
    static __device__ __forceinline__ int level(int n) { return (int)((low((unsigned)n) | high((unsigned)n ^ 8u)) & 0xff); }
};

struct Int3 : Eights<2, 1, 2, 29, 0, 5, 0x53207461u, true> {
    static __device__ __forceinline__ unsigned table(unsigned s) { return permute(0x0d0a0600u, 0x1d171310u, s); }
    static __device__ __forceinline__ unsigned turned(unsigned s) { return permute(0x17100a00u, 0x1d130d06u, s); } /* lowest bit uppermost */
    /* The lowest bits of a byte's eight quads are to stand as those of quads 0 1 4 5 and 2 3 6 7. */
    static __device__ __forceinline__ void prepare(unsigned (&words)[3]) {
        const unsigned differ = (words[2] >> 2 ^ words[2]) & 0x0c0c0c0cu;
        words[2] ^= differ ^ differ << 2;
    }
    template <int P>
    static __device__ __forceinline__ void parts(const unsigned (&words)[3], unsigned (&v)[3]) {
        enum { N = P / 8 };
        const unsigned upper = words[N / 2], lower = words[2];
        const unsigned n = N % 2 ? (upper & 0x33333333u) | ((N == 1 ? lower : lower << 2) & 0x44444444u)
                                 : (upper >> 1 & 0x66666666u) | (lower >> (3 - N) & 0x11111111u);
        v[0] = N % 2 ? turned(n) : table(n);
        v[1] = N % 2 ? turned(n >> 16) : table(n >> 16);
        finish(v);
    }
    static __device__ __forceinline__ int level(int n) { return (int)(table((unsigned)n) & 0xff); }
};

struct Nl2 : Eights<2, 0, 1, 7, 0, 4, 0x53207461u, true> {
    static __device__ __forceinline__ unsigned table(unsigned s) { return permute(0x0e090500u, 0u, s); }
    template <int P>
    static __device__ __forceinline__ void parts(const unsigned (&words)[2], unsigned (&v)[3]) {
        const unsigned n = (P / 8 % 2 ? words[P / 16] : words[P / 16] >> 2) & 0x33333333u;
        v[0] = table(n);
        v[1] = table(n >> 16);
        finish(v);
    }
    static __device__ __forceinline__ int level(int n) { return (int)(table((unsigned)n) & 0xff); }
};
#endif
