/* dot.h on SSSE3 and AVX: pmaddubsw as on AVX2, on 128-bit registers, eight rows (a half of the tile) in two of them. */
#ifndef N730_DOT_SSSE3_H
#define N730_DOT_SSSE3_H

N730_FN i32x8 add16(i32x8 a, i32x8 b) { return i8_pair(_mm_add_epi16(a.lo, b.lo), _mm_add_epi16(a.hi, b.hi)); }
N730_FN i32x8 maddubs(i32x8 fields, __m128i x) {
    return i8_pair(_mm_maddubs_epi16(fields.lo, x), _mm_maddubs_epi16(fields.hi, x));
}
N730_FN i32x8 madd_ones(i32x8 v) {
    const __m128i ones = _mm_set1_epi16(1);
    return i8_pair(_mm_madd_epi16(v.lo, ones), _mm_madd_epi16(v.hi, ones));
}
N730_FN __m128i quad(const int8_t *x) { return _mm_set1_epi32(load_i32(x)); }

/* |w| × (x with w's sign): u8 × s8 pairs stay within 2 × 128 × 127 < 2^15. */
N730_FN void dot_int8(const uint8_t *w, const int8_t *const *x, int n, i32x8 s[][2]) {
    N730_UNROLL for (int u = 0; u < 8; u++)
        N730_UNROLL for (int h = 0; h < 2; h++) {
            i32x8 v = i8_load(w + 64 * u + 32 * h), a = i8_pair(_mm_abs_epi8(v.lo), _mm_abs_epi8(v.hi));
            N730_UNROLL for (int c = 0; c < n; c++) {
                __m128i b = quad(x[c] + 4 * u);
                __m128i lo = _mm_maddubs_epi16(a.lo, _mm_sign_epi8(b, v.lo));
                __m128i hi = _mm_maddubs_epi16(a.hi, _mm_sign_epi8(b, v.hi));
                i32x8 p = madd_ones(i8_pair(lo, hi));
                s[c][h] = u ? i8_add(s[c][h], p) : p;
                i8_fence(&s[c][h]);
            }
        }
}

/* The 8 / bits fields of every byte; sums of 16-bit pairs over the whole group stay within 8 × 2 × 15 × 127 < 2^15. */
N730_FN void dot_fields(const uint8_t *w, int bits, const int8_t *const *x, int n, i32x8 s[][2]) {
    const __m128i mask = _mm_set1_epi8((char)((1 << bits) - 1));
    const int fields = 8 / bits;
    N730_UNROLL for (int u = 0; u < bits; u++)
        N730_UNROLL for (int h = 0; h < 2; h++) {
            i32x8 v = i8_load(w + 64 * u + 32 * h);
            N730_UNROLL for (int f = 0; f < fields; f++) {
                const int shift = 8 - bits - bits * f;
                i32x8 q = i8_pair(_mm_and_si128(_mm_srli_epi16(v.lo, shift), mask),
                                  _mm_and_si128(_mm_srli_epi16(v.hi, shift), mask));
                N730_UNROLL for (int c = 0; c < n; c++) {
                    i32x8 p = maddubs(q, quad(x[c] + 4 * (fields * u + f)));
                    s[c][h] = u | f ? add16(s[c][h], p) : p;
                    i8_fence(&s[c][h]);
                }
            }
        }
    N730_UNROLL for (int c = 0; c < n; c++)
        N730_UNROLL for (int h = 0; h < 2; h++) s[c][h] = madd_ones(s[c][h]);
}
N730_FN void dot_int4(const uint8_t *w, const int8_t *const *x, int n, i32x8 s[][2]) { dot_fields(w, 4, x, n, s); }
N730_FN void dot_int2(const uint8_t *w, const int8_t *const *x, int n, i32x8 s[][2]) { dot_fields(w, 2, x, n, s); }
#endif
