/* dot.h on AVX-512 with VNNI: a unit is one register, and vpdpbusd adds four u8 × s8 products to each lane, exactly. */
#ifndef N730_DOT_AVX512_H
#define N730_DOT_AVX512_H

N730_FN __m512i quad(const int8_t *x) { return _mm512_set1_epi32(load_i32(x)); } /* folds into vpdpbusd's operand */
N730_FN void halves(__m512i v, i32x8 s[2]) {
    s[0] = _mm512_castsi512_si256(v);
    s[1] = _mm512_extracti64x4_epi64(v, 1);
}

/* w + 128 is unsigned; 128 Σ x, the same in every lane, is summed beside it and taken off. */
N730_FN void dot_int8(const uint8_t *w, const int8_t *const *x, int n, i32x8 s[][2]) {
    const __m512i flip = _mm512_set1_epi8(-128);
    __m512i sum[N730_COLUMNS], excess[N730_COLUMNS];
    N730_UNROLL for (int c = 0; c < n; c++) sum[c] = excess[c] = _mm512_setzero_si512();
    N730_UNROLL for (int u = 0; u < 8; u++) {
        __m512i v = _mm512_xor_si512(_mm512_loadu_si512(w + 64 * u), flip);
        N730_UNROLL for (int c = 0; c < n; c++) {
            sum[c] = _mm512_dpbusd_epi32(sum[c], v, quad(x[c] + 4 * u));
            excess[c] = _mm512_dpbusd_epi32(excess[c], flip, quad(x[c] + 4 * u));
        }
    }
    N730_UNROLL for (int c = 0; c < n; c++) halves(_mm512_sub_epi32(sum[c], excess[c]), s[c]);
}

N730_FN void dot_fields(const uint8_t *w, int bits, const int8_t *const *x, int n, i32x8 s[][2]) {
    const __m512i mask = _mm512_set1_epi8((char)((1 << bits) - 1));
    const int fields = 8 / bits;
    __m512i sum[N730_COLUMNS];
    N730_UNROLL for (int c = 0; c < n; c++) sum[c] = _mm512_setzero_si512();
    N730_UNROLL for (int u = 0; u < bits; u++) {
        __m512i v = _mm512_loadu_si512(w + 64 * u);
        N730_UNROLL for (int f = 0; f < fields; f++) {
            __m512i q = _mm512_and_si512(_mm512_srli_epi16(v, (unsigned)(8 - bits - bits * f)), mask);
            N730_UNROLL for (int c = 0; c < n; c++)
                sum[c] = _mm512_dpbusd_epi32(sum[c], q, quad(x[c] + 4 * (fields * u + f)));
        }
    }
    N730_UNROLL for (int c = 0; c < n; c++) halves(sum[c], s[c]);
}
N730_FN void dot_int4(const uint8_t *w, const int8_t *const *x, int n, i32x8 s[][2]) { dot_fields(w, 4, x, n, s); }
N730_FN void dot_int2(const uint8_t *w, const int8_t *const *x, int n, i32x8 s[][2]) { dot_fields(w, 2, x, n, s); }
#endif
