/* Exact integer products of one block: 16 rows × one group of 32 inputs, for n columns (tokens) at once.
 *
 * `w` points at the fields of the block (after its scales), x[c] at the 32 int8 activations of column c. In all
 * instruction sets one 32-bit lane belongs to one row, as the file's units are laid out. s[c][h]: rows 8h … 8h+7.
 * The weights are unpacked once for all columns. n and the loops' counts are constants after inlining. */
#ifndef N730_DOT_H
#define N730_DOT_H
#include "simd.h"

#define N730_COLUMNS 4 /* most columns of one register block */

#if N730_AVX512
#include "dot_avx512.h"
#elif N730_AVX2
N730_FN __m256i quad(const int8_t *x) { return _mm256_set1_epi32(load_i32(x)); }

/* |w| × (x with w's sign): u8 × s8 pairs stay within 2 × 128 × 127 < 2^15. */
N730_FN void dot_int8(const uint8_t *w, const int8_t *const *x, int n, i32x8 s[][2]) {
    const __m256i ones = _mm256_set1_epi16(1);
    N730_UNROLL for (int u = 0; u < 8; u++) {
        __m256i v0 = i8_load(w + 64 * u), v1 = i8_load(w + 64 * u + 32);
        __m256i a0 = _mm256_abs_epi8(v0), a1 = _mm256_abs_epi8(v1);
        N730_UNROLL for (int c = 0; c < n; c++) {
            __m256i b = quad(x[c] + 4 * u);
            __m256i p0 = _mm256_madd_epi16(_mm256_maddubs_epi16(a0, _mm256_sign_epi8(b, v0)), ones);
            __m256i p1 = _mm256_madd_epi16(_mm256_maddubs_epi16(a1, _mm256_sign_epi8(b, v1)), ones);
            s[c][0] = u ? i8_add(s[c][0], p0) : p0;
            s[c][1] = u ? i8_add(s[c][1], p1) : p1;
            i8_fence(&s[c][0]);
            i8_fence(&s[c][1]);
        }
    }
}

/* Sums of 16-bit pairs over the whole group: 8 × 2 × 15 × 127 = 30480 < 2^15. */
N730_FN void dot_int4(const uint8_t *w, const int8_t *const *x, int n, i32x8 s[][2]) {
    const __m256i ones = _mm256_set1_epi16(1), mask = _mm256_set1_epi8(15);
    N730_UNROLL for (int u = 0; u < 4; u++) {
        __m256i v0 = i8_load(w + 64 * u), v1 = i8_load(w + 64 * u + 32);
        __m256i h0 = _mm256_and_si256(_mm256_srli_epi16(v0, 4), mask), l0 = _mm256_and_si256(v0, mask);
        __m256i h1 = _mm256_and_si256(_mm256_srli_epi16(v1, 4), mask), l1 = _mm256_and_si256(v1, mask);
        N730_UNROLL for (int c = 0; c < n; c++) {
            __m256i bh = quad(x[c] + 8 * u), bl = quad(x[c] + 8 * u + 4);
            __m256i p0 = _mm256_add_epi16(_mm256_maddubs_epi16(h0, bh), _mm256_maddubs_epi16(l0, bl));
            __m256i p1 = _mm256_add_epi16(_mm256_maddubs_epi16(h1, bh), _mm256_maddubs_epi16(l1, bl));
            s[c][0] = u ? _mm256_add_epi16(s[c][0], p0) : p0;
            s[c][1] = u ? _mm256_add_epi16(s[c][1], p1) : p1;
            i8_fence(&s[c][0]);
            i8_fence(&s[c][1]);
        }
    }
    N730_UNROLL for (int c = 0; c < n; c++) {
        s[c][0] = _mm256_madd_epi16(s[c][0], ones);
        s[c][1] = _mm256_madd_epi16(s[c][1], ones);
    }
}

/* Sums of 16-bit pairs over the whole group: 8 × 2 × 3 × 127 = 6096. */
N730_FN void dot_int2(const uint8_t *w, const int8_t *const *x, int n, i32x8 s[][2]) {
    const __m256i ones = _mm256_set1_epi16(1), mask = _mm256_set1_epi8(3);
    N730_UNROLL for (int u = 0; u < 2; u++) {
        __m256i v0 = i8_load(w + 64 * u), v1 = i8_load(w + 64 * u + 32);
        N730_UNROLL for (int f = 0; f < 4; f++) {
            __m256i q0 = _mm256_and_si256(_mm256_srli_epi16(v0, 6 - 2 * f), mask);
            __m256i q1 = _mm256_and_si256(_mm256_srli_epi16(v1, 6 - 2 * f), mask);
            N730_UNROLL for (int c = 0; c < n; c++) {
                __m256i b = quad(x[c] + 16 * u + 4 * f);
                __m256i p0 = _mm256_maddubs_epi16(q0, b), p1 = _mm256_maddubs_epi16(q1, b);
                s[c][0] = u | f ? _mm256_add_epi16(s[c][0], p0) : p0;
                s[c][1] = u | f ? _mm256_add_epi16(s[c][1], p1) : p1;
                i8_fence(&s[c][0]);
                i8_fence(&s[c][1]);
            }
        }
    }
    N730_UNROLL for (int c = 0; c < n; c++) {
        s[c][0] = _mm256_madd_epi16(s[c][0], ones);
        s[c][1] = _mm256_madd_epi16(s[c][1], ones);
    }
}

#elif N730_SSSE3
#include "dot_ssse3.h"
#else /* SSE2: bytes 0, 2 and 1, 3 of each lane widened to 16 bits, then pmaddwd */
typedef struct {
    __m128i even, odd; /* four lanes of [byte 0, byte 2] and [byte 1, byte 3] as i16 */
} pairs;

N730_FN pairs widen(__m128i bytes) {
    pairs p = {_mm_srai_epi16(_mm_slli_epi16(bytes, 8), 8), _mm_srai_epi16(bytes, 8)};
    return p;
}
N730_FN __m128i madd_pairs(pairs a, pairs b) {
    return _mm_add_epi32(_mm_madd_epi16(a.even, b.even), _mm_madd_epi16(a.odd, b.odd));
}
/* The field of `bits` bits at `shift` of every byte. */
N730_FN pairs field(__m128i v, int bits, int shift) {
    const __m128i mask = _mm_set1_epi16((int16_t)((1 << bits) - 1));
    __m128i odd = _mm_srli_epi16(v, 8 + shift);
    pairs p = {_mm_and_si128(_mm_srli_epi16(v, shift), mask), shift + bits == 8 ? odd : _mm_and_si128(odd, mask)};
    return p;
}
/* One unit's fields, unsigned of `bits` < 8 bits or signed bytes, against the four activations that they meet. */
N730_FN void dot_field(const uint8_t *unit, int bits, int shift, const int8_t *const *x, int at, int n, i32x8 s[][2]) {
    pairs b[N730_COLUMNS];
    N730_UNROLL for (int c = 0; c < n; c++) b[c] = widen(_mm_set1_epi32(load_i32(x[c] + at)));
    N730_UNROLL for (int h = 0; h < 2; h++) {
        i32x8 v = i8_load(unit + 32 * h);
        pairs lo = bits == 8 ? widen(v.lo) : field(v.lo, bits, shift);
        pairs hi = bits == 8 ? widen(v.hi) : field(v.hi, bits, shift);
        N730_UNROLL for (int c = 0; c < n; c++) {
            s[c][h] = i8_add(s[c][h], i8_pair(madd_pairs(lo, b[c]), madd_pairs(hi, b[c])));
            i8_fence(&s[c][h]);
        }
    }
}
N730_FN void dot_fields(const uint8_t *w, int bits, const int8_t *const *x, int n, i32x8 s[][2]) {
    const int fields = 8 / bits;
    N730_UNROLL for (int c = 0; c < n; c++) s[c][0] = s[c][1] = i8_zero();
    N730_UNROLL for (int u = 0; u < bits; u++)
        N730_UNROLL for (int f = 0; f < fields; f++)
            dot_field(w + 64 * u, bits, 8 - bits - bits * f, x, 4 * (fields * u + f), n, s);
}
N730_FN void dot_int8(const uint8_t *w, const int8_t *const *x, int n, i32x8 s[][2]) { dot_fields(w, 8, x, n, s); }
N730_FN void dot_int4(const uint8_t *w, const int8_t *const *x, int n, i32x8 s[][2]) { dot_fields(w, 4, x, n, s); }
N730_FN void dot_int2(const uint8_t *w, const int8_t *const *x, int n, i32x8 s[][2]) { dot_fields(w, 2, x, n, s); }
#endif
#endif
