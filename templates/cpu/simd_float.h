/* f32x8: one register from AVX on, two of SSE before. f8_lo, f8_hi and f8_pair take it apart and put it together.
 * Included by simd.h. */
#ifndef N730_SIMD_FLOAT_H
#define N730_SIMD_FLOAT_H
#if N730_AVX
typedef __m256 f32x8;
N730_FN __m128 f8_lo(f32x8 v) { return _mm256_castps256_ps128(v); }
N730_FN __m128 f8_hi(f32x8 v) { return _mm256_extractf128_ps(v, 1); }
N730_FN f32x8 f8_pair(__m128 lo, __m128 hi) { return _mm256_insertf128_ps(_mm256_castps128_ps256(lo), hi, 1); }
N730_FN f32x8 f8_zero(void) { return _mm256_setzero_ps(); }
N730_FN f32x8 f8_set(float x) { return _mm256_set1_ps(x); }
N730_FN f32x8 f8_load(const void *p) { return _mm256_loadu_ps((const float *)p); }
N730_FN void f8_store(void *p, f32x8 v) { _mm256_storeu_ps((float *)p, v); }
N730_FN f32x8 f8_add(f32x8 a, f32x8 b) { return _mm256_add_ps(a, b); }
N730_FN f32x8 f8_sub(f32x8 a, f32x8 b) { return _mm256_sub_ps(a, b); }
N730_FN f32x8 f8_mul(f32x8 a, f32x8 b) { return _mm256_mul_ps(a, b); }
N730_FN f32x8 f8_div(f32x8 a, f32x8 b) { return _mm256_div_ps(a, b); }
N730_FN f32x8 f8_max(f32x8 a, f32x8 b) { return _mm256_max_ps(a, b); } /* b where either is NaN */
N730_FN f32x8 f8_min(f32x8 a, f32x8 b) { return _mm256_min_ps(a, b); }
N730_FN f32x8 f8_and(f32x8 a, f32x8 b) { return _mm256_and_ps(a, b); }
N730_FN f32x8 f8_or(f32x8 a, f32x8 b) { return _mm256_or_ps(a, b); }
N730_FN f32x8 f8_xor(f32x8 a, f32x8 b) { return _mm256_xor_ps(a, b); }
N730_FN f32x8 f8_andnot(f32x8 mask, f32x8 a) { return _mm256_andnot_ps(mask, a); }
N730_FN f32x8 f8_nan(f32x8 a) { return _mm256_cmp_ps(a, a, _CMP_UNORD_Q); } /* all ones where a is NaN */
N730_FN f32x8 f8_ge(f32x8 a, f32x8 b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); } /* all ones where a ≥ b */
/* Lane i: the sum of v[i]'s lanes in the order of f8_sum. */
N730_FN f32x8 f8_sums(const f32x8 v[8]) {
    f32x8 t[4], u[2];
    N730_UNROLL for (int i = 0; i < 4; i++)
        t[i] = f8_add(_mm256_permute2f128_ps(v[i], v[i + 4], 0x20), _mm256_permute2f128_ps(v[i], v[i + 4], 0x31));
    N730_UNROLL for (int i = 0; i < 2; i++) {
        __m256d a = _mm256_castps_pd(t[2 * i]), b = _mm256_castps_pd(t[2 * i + 1]);
        u[i] = f8_add(_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)), _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
    }
    return f8_add(_mm256_shuffle_ps(u[0], u[1], 0x88), _mm256_shuffle_ps(u[0], u[1], 0xdd));
}

#else /* SSE2 */
typedef struct {
    __m128 lo, hi;
} f32x8;
N730_FN __m128 f8_lo(f32x8 v) { return v.lo; }
N730_FN __m128 f8_hi(f32x8 v) { return v.hi; }
N730_FN f32x8 f8_pair(__m128 lo, __m128 hi) {
    f32x8 v = {lo, hi};
    return v;
}
N730_FN f32x8 f8_set(float x) { return f8_pair(_mm_set1_ps(x), _mm_set1_ps(x)); }
N730_FN f32x8 f8_zero(void) { return f8_set(0.0f); }
N730_FN f32x8 f8_load(const void *p) { return f8_pair(_mm_loadu_ps((const float *)p), _mm_loadu_ps((const float *)p + 4)); }
N730_FN void f8_store(void *p, f32x8 v) {
    _mm_storeu_ps((float *)p, v.lo);
    _mm_storeu_ps((float *)p + 4, v.hi);
}
#define N730_F8(name, op) \
    N730_FN f32x8 name(f32x8 a, f32x8 b) { return f8_pair(op(a.lo, b.lo), op(a.hi, b.hi)); }
N730_F8(f8_add, _mm_add_ps)
N730_F8(f8_sub, _mm_sub_ps)
N730_F8(f8_mul, _mm_mul_ps)
N730_F8(f8_div, _mm_div_ps)
N730_F8(f8_max, _mm_max_ps) /* b where either is NaN */
N730_F8(f8_min, _mm_min_ps)
N730_F8(f8_and, _mm_and_ps)
N730_F8(f8_or, _mm_or_ps)
N730_F8(f8_xor, _mm_xor_ps)
N730_F8(f8_andnot, _mm_andnot_ps)
N730_F8(f8_ge, _mm_cmpge_ps) /* all ones where a ≥ b */
#undef N730_F8
N730_FN f32x8 f8_nan(f32x8 a) { return f8_pair(_mm_cmpunord_ps(a.lo, a.lo), _mm_cmpunord_ps(a.hi, a.hi)); }
N730_FN __m128 sums4(const f32x8 *v) { /* lane i: the sum of v[i] */
    __m128 t[4], u[2];
    N730_UNROLL for (int i = 0; i < 4; i++) t[i] = _mm_add_ps(v[i].lo, v[i].hi);
    N730_UNROLL for (int i = 0; i < 2; i++)
        u[i] = _mm_add_ps(_mm_movelh_ps(t[2 * i], t[2 * i + 1]), _mm_movehl_ps(t[2 * i + 1], t[2 * i]));
    return _mm_add_ps(_mm_shuffle_ps(u[0], u[1], 0x88), _mm_shuffle_ps(u[0], u[1], 0xdd));
}
/* Lane i: the sum of v[i]'s lanes in the order of f8_sum. */
N730_FN f32x8 f8_sums(const f32x8 v[8]) { return f8_pair(sums4(v), sums4(v + 4)); }
#endif

N730_FN f32x8 f8_abs(f32x8 a) { return f8_andnot(f8_set(-0.0f), a); }
N730_FN f32x8 f8_neg(f32x8 a) { return f8_xor(a, f8_set(-0.0f)); }
N730_FN float f8_sum(f32x8 v) { return sum4(_mm_add_ps(f8_lo(v), f8_hi(v))); }
N730_FN float f8_hmax(f32x8 v) {
    __m128 m = _mm_max_ps(f8_lo(v), f8_hi(v));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}
#endif
