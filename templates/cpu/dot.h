/* Exact integer products of one block: 16 rows × one group of 32 inputs, for n columns (tokens) at once.
 *
 * `w` points at the fields of the block, x[c] at the 32 int8 activations of column c. In all instruction sets one 32-bit
 * lane belongs to one row, as the file's units are laid out. s[c][h]: rows 8h … 8h+7, Σ t·x with t as fields.h says.
 * The weights are unpacked once for all columns. n and the loops' counts are constants after inlining. */
#ifndef N730_DOT_H
#define N730_DOT_H
#include "fields.h"

#define N730_COLUMNS 4 /* most columns of one register block */

#if N730_AVX512 /* vpdpbusd adds four u8 × s8 products to each lane, exactly */
N730_FN __m512i quad(const int8_t *x) { return _mm512_set1_epi32(load_i32(x)); } /* folds into vpdpbusd's operand */
N730_FN void dot(int format, const uint8_t *w, const int8_t *const *x, int n, i32x8 s[][2]) {
    const __m512i flip = _mm512_set1_epi8(-128);
    __m512i sum[N730_COLUMNS], excess[N730_COLUMNS];
    N730_UNROLL for (int c = 0; c < n; c++) sum[c] = excess[c] = _mm512_setzero_si512();
    N730_UNROLL for (int j = 0; j < GROUP / 4; j++) {
        bytes t = fields(format, w, j, 0);
        if (format == FORMAT_INT8) t = _mm512_xor_si512(t, flip); /* w + 128 is unsigned */
        N730_UNROLL for (int c = 0; c < n; c++) {
            sum[c] = _mm512_dpbusd_epi32(sum[c], t, quad(x[c] + 4 * j));
            if (format == FORMAT_INT8) excess[c] = _mm512_dpbusd_epi32(excess[c], flip, quad(x[c] + 4 * j));
        }
    }
    N730_UNROLL for (int c = 0; c < n; c++) {
        if (format == FORMAT_INT8) sum[c] = _mm512_sub_epi32(sum[c], excess[c]); /* 128 Σ x, the same in every lane */
        s[c][0] = _mm512_castsi512_si256(sum[c]);
        s[c][1] = _mm512_extracti64x4_epi64(sum[c], 1);
    }
}

#elif N730_SSSE3 /* pmaddubsw: sums of two products in 16 bits, of which some more fit in there; then in 32 */
/* Quads whose sums fit 16 bits: of each, one lane has two products of at most most × 127. */
N730_FN int quads_in_16_bits(int format) {
    const int most = format_most(format);
    return 8 * 2 * most * 127 < 32768 ? 8 : 4 * 2 * most * 127 < 32768 ? 4 : 2 * 2 * most * 127 < 32768 ? 2 : 1;
}
N730_FN void dot(int format, const uint8_t *w, const int8_t *const *x, int n, i32x8 s[][2]) {
    const int run = quads_in_16_bits(format), pair = run == 2 ? 2 : 1; /* quads that are added before they go to `part` */
    i32x8 part[N730_COLUMNS][2];
    N730_UNROLL for (int j = 0; j < GROUP / 4; j += pair) {
        bytes t[2], u[2];
        N730_UNROLL for (int h = 0; h < 2; h++) {
            t[h] = fields(format, w, j, h);
            if (pair == 2) u[h] = fields(format, w, j + 1, h);
        }
        N730_UNROLL for (int c = 0; c < n; c++) {
            const quad b = load_quad(x[c] + 4 * j), next = load_quad(x[c] + 4 * j + 4 * (pair - 1));
            N730_UNROLL for (int h = 0; h < 2; h++) {
                i32x8 p = format == FORMAT_INT8 ? maddss(t[h], b) : maddubs(t[h], b);
                if (pair == 2) p = add16(p, maddubs(u[h], next));
                if (j % run)
                    acc16(&part[c][h], p);
                else
                    part[c][h] = p;
                if ((j + pair) % run) continue;
                p = widen_pairs(part[c][h]);
                if (j < run)
                    s[c][h] = p;
                else
                    acc32(&s[c][h], p);
            }
        }
    }
}

#else /* SSE2: bytes 0, 2 and 1, 3 of each lane widened to 16 bits, then pmaddwd */
typedef struct {
    __m128i even, odd; /* four lanes of [byte 0, byte 2] and [byte 1, byte 3] as i16 */
} pairs;
N730_FN pairs widen_signed(__m128i v) {
    pairs p = {_mm_srai_epi16(_mm_slli_epi16(v, 8), 8), _mm_srai_epi16(v, 8)};
    return p;
}
N730_FN pairs widen_unsigned(__m128i v) {
    pairs p = {_mm_and_si128(v, _mm_set1_epi16(255)), _mm_srli_epi16(v, 8)};
    return p;
}
N730_FN __m128i madd_pairs(pairs a, pairs b) {
    return _mm_add_epi32(_mm_madd_epi16(a.even, b.even), _mm_madd_epi16(a.odd, b.odd));
}
N730_FN void dot(int format, const uint8_t *w, const int8_t *const *x, int n, i32x8 s[][2]) {
    pairs b[N730_COLUMNS];
    N730_UNROLL for (int j = 0; j < GROUP / 4; j++) {
        N730_UNROLL for (int c = 0; c < n; c++) b[c] = widen_signed(_mm_set1_epi32(load_i32(x[c] + 4 * j)));
        N730_UNROLL for (int h = 0; h < 2; h++) {
            bytes t = fields(format, w, j, h);
            pairs lo = format == FORMAT_INT8 ? widen_signed(t.lo) : widen_unsigned(t.lo);
            pairs hi = format == FORMAT_INT8 ? widen_signed(t.hi) : widen_unsigned(t.hi);
            N730_UNROLL for (int c = 0; c < n; c++) {
                i32x8 p = i8_pair(madd_pairs(lo, b[c]), madd_pairs(hi, b[c]));
                s[c][h] = j ? i8_add(s[c][h], p) : p;
                i8_fence(&s[c][h]);
            }
        }
    }
}
#endif
#endif
