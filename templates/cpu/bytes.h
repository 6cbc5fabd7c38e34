/* `bytes`: what one load of packed fields gives, 64 bytes (16 rows of a unit) on AVX-512 and 32 (8 rows, a half of the
 * tile) before; HALVES of them make a unit. And, from SSSE3 on, products of u8 and s8.
 *
 * acc16 and acc32 add in place, in assembly: GCC would postpone all additions of an unrolled loop to its end and keep
 * every addend on the stack; a fence behind each addition (as elsewhere) costs a move of registers, and a quarter of the
 * time with four columns. */
#ifndef N730_BYTES_H
#define N730_BYTES_H
#include "simd.h"

#if N730_AVX512
typedef __m512i bytes;
enum { HALVES = 1 };
N730_FN bytes b_load(const void *p) { return _mm512_loadu_si512(p); }
N730_FN bytes b_and(bytes a, int mask) { return _mm512_and_si512(a, _mm512_set1_epi8((char)mask)); }
N730_FN bytes b_or(bytes a, bytes b) { return _mm512_or_si512(a, b); }
N730_FN bytes b_right(bytes a, int n) { return _mm512_srli_epi16(a, (unsigned)n); }
N730_FN bytes b_left(bytes a, int n) { return _mm512_slli_epi16(a, (unsigned)n); }
N730_FN bytes b_lookup(bytes index, const uint8_t table[16]) {
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table)), index);
}

#elif N730_AVX2
typedef __m256i bytes;
enum { HALVES = 2 };
N730_FN bytes b_load(const void *p) { return i8_load(p); }
N730_FN bytes b_and(bytes a, int mask) { return _mm256_and_si256(a, _mm256_set1_epi8((char)mask)); }
N730_FN bytes b_or(bytes a, bytes b) { return _mm256_or_si256(a, b); }
N730_FN bytes b_right(bytes a, int n) { return _mm256_srli_epi16(a, n); }
N730_FN bytes b_left(bytes a, int n) { return _mm256_slli_epi16(a, n); }
N730_FN bytes b_lookup(bytes index, const uint8_t table[16]) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table)), index);
}
typedef __m256i quad; /* four activations, the same for every row */
N730_FN quad load_quad(const int8_t *x) { return _mm256_set1_epi32(load_i32(x)); }
N730_FN i32x8 maddubs(bytes t, quad x) { return _mm256_maddubs_epi16(t, x); }
N730_FN i32x8 add16(i32x8 a, i32x8 b) { return _mm256_add_epi16(a, b); }
N730_FN void acc16(i32x8 *a, i32x8 b) { __asm__("vpaddw %1, %0, %0" : "+x"(*a) : "x"(b)); }
N730_FN void acc32(i32x8 *a, i32x8 b) { __asm__("vpaddd %1, %0, %0" : "+x"(*a) : "x"(b)); }
N730_FN i32x8 widen_pairs(i32x8 a) { return _mm256_madd_epi16(a, _mm256_set1_epi16(1)); }
N730_FN i32x8 maddss(bytes w, quad x) { return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)); }

#else
typedef i32x8 bytes;
enum { HALVES = 2 };
N730_FN bytes b_load(const void *p) { return i8_load(p); }
N730_FN bytes b_and(bytes a, int mask) {
    const __m128i m = _mm_set1_epi8((char)mask);
    return i8_pair(_mm_and_si128(a.lo, m), _mm_and_si128(a.hi, m));
}
N730_FN bytes b_or(bytes a, bytes b) { return i8_pair(_mm_or_si128(a.lo, b.lo), _mm_or_si128(a.hi, b.hi)); }
N730_FN bytes b_right(bytes a, int n) { return i8_pair(_mm_srli_epi16(a.lo, n), _mm_srli_epi16(a.hi, n)); }
N730_FN bytes b_left(bytes a, int n) { return i8_pair(_mm_slli_epi16(a.lo, n), _mm_slli_epi16(a.hi, n)); }
#if N730_SSSE3
N730_FN bytes b_lookup(bytes index, const uint8_t table[16]) {
    const __m128i t = _mm_loadu_si128((const __m128i *)table);
    return i8_pair(_mm_shuffle_epi8(t, index.lo), _mm_shuffle_epi8(t, index.hi));
}
typedef __m128i quad; /* four activations, the same for every row */
N730_FN quad load_quad(const int8_t *x) { return _mm_set1_epi32(load_i32(x)); }
N730_FN i32x8 maddubs(bytes t, quad x) { return i8_pair(_mm_maddubs_epi16(t.lo, x), _mm_maddubs_epi16(t.hi, x)); }
N730_FN i32x8 add16(i32x8 a, i32x8 b) { return i8_pair(_mm_add_epi16(a.lo, b.lo), _mm_add_epi16(a.hi, b.hi)); }
#if N730_AVX
#define N730_ADD_IN_PLACE(op) "v" op " %1, %0, %0"
#else
#define N730_ADD_IN_PLACE(op) op " %1, %0"
#endif
N730_FN void acc16(i32x8 *a, i32x8 b) {
    __asm__(N730_ADD_IN_PLACE("paddw") : "+x"(a->lo) : "x"(b.lo));
    __asm__(N730_ADD_IN_PLACE("paddw") : "+x"(a->hi) : "x"(b.hi));
}
N730_FN void acc32(i32x8 *a, i32x8 b) {
    __asm__(N730_ADD_IN_PLACE("paddd") : "+x"(a->lo) : "x"(b.lo));
    __asm__(N730_ADD_IN_PLACE("paddd") : "+x"(a->hi) : "x"(b.hi));
}
N730_FN i32x8 widen_pairs(i32x8 a) {
    const __m128i ones = _mm_set1_epi16(1);
    return i8_pair(_mm_madd_epi16(a.lo, ones), _mm_madd_epi16(a.hi, ones));
}
N730_FN i32x8 maddss(bytes w, quad x) {
    return i8_pair(_mm_maddubs_epi16(_mm_abs_epi8(w.lo), _mm_sign_epi8(x, w.lo)),
                   _mm_maddubs_epi16(_mm_abs_epi8(w.hi), _mm_sign_epi8(x, w.hi)));
}
#else
/* SSE2 cannot look up: sixteen comparisons, of which the compiler keeps those with an entry that is not zero. */
N730_FN __m128i lookup_half(__m128i index, const uint8_t table[16]) {
    __m128i out = _mm_setzero_si128();
    N730_UNROLL for (int i = 0; i < 16; i++)
        out = _mm_or_si128(
            out, _mm_and_si128(_mm_cmpeq_epi8(index, _mm_set1_epi8((char)i)), _mm_set1_epi8((char)table[i])));
    return out;
}
N730_FN bytes b_lookup(bytes index, const uint8_t table[16]) {
    return i8_pair(lookup_half(index.lo, table), lookup_half(index.hi, table));
}
#endif
#endif
#endif
