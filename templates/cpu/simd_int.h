/* i32x8, and what turns stored bytes into floats: big-endian loads, FP16, BF16. One register from AVX2 on, two of SSE
 * before. Included by simd.h. */
#ifndef N730_SIMD_INT_H
#define N730_SIMD_INT_H
#if N730_AVX2
typedef __m256i i32x8;
N730_FN i32x8 i8_zero(void) { return _mm256_setzero_si256(); }
N730_FN i32x8 i8_set(int32_t x) { return _mm256_set1_epi32(x); }
N730_FN i32x8 i8_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
N730_FN i32x8 i8_add(i32x8 a, i32x8 b) { return _mm256_add_epi32(a, b); }
N730_FN i32x8 i8_sub(i32x8 a, i32x8 b) { return _mm256_sub_epi32(a, b); }
/* a × n, both of 16 bits with a sign */
N730_FN i32x8 i8_times(i32x8 a, int n) { return _mm256_madd_epi16(a, _mm256_set1_epi32(n)); }
N730_FN void i8_fence(i32x8 *a) { N730_FENCE(*a); }
N730_FN f32x8 i8_to_f8(i32x8 a) { return _mm256_cvtepi32_ps(a); }
N730_FN i32x8 f8_round(f32x8 a) { return _mm256_cvtps_epi32(a); } /* half to even */
N730_FN f32x8 f8_scale2(f32x8 a, i32x8 n) {                       /* a × 2^n, n in −126 … 127 */
    return f8_mul(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23)));
}
/* eight i32 in −128 … 127 to bytes */
N730_FN void i8_store_bytes(void *p, i32x8 v) {
    __m128i w = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(w, w));
}
N730_FN f32x8 f8_load_be(const void *p) {
    const __m256i swap = _mm256_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 3, 2, 1, 0, 7, 6, 5, 4,
                                          11, 10, 9, 8, 15, 14, 13, 12);
    return _mm256_castsi256_ps(_mm256_shuffle_epi8(i8_load(p), swap));
}
N730_FN f32x8 f8_load_i8(const void *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
/* Sixteen bytes of two 4-bit numbers each: the upper ones, then the lower ones. */
N730_FN void f8_load_codes(const uint8_t *p, f32x8 upper[2], f32x8 lower[2]) {
    N730_UNROLL for (int h = 0; h < 2; h++) {
        const __m256i c = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8 * h)));
        upper[h] = _mm256_cvtepi32_ps(_mm256_srli_epi32(c, 4));
        lower[h] = _mm256_cvtepi32_ps(_mm256_and_si256(c, _mm256_set1_epi32(15)));
    }
}
N730_FN f32x8 f8_load_f16(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
N730_FN f32x8 f8_load_f16_be(const void *p) {
    const __m128i swap = _mm_setr_epi8(1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    return _mm256_cvtph_ps(_mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)p), swap));
}
N730_FN f32x8 f8_load_bf16_be(const void *p) {
    const __m256i put = _mm256_setr_epi8(-1, -1, 1, 0, -1, -1, 3, 2, -1, -1, 5, 4, -1, -1, 7, 6, -1, -1, 9, 8, -1, -1,
                                         11, 10, -1, -1, 13, 12, -1, -1, 15, 14);
    __m256i v = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_shuffle_epi8(v, put));
}
N730_FN void f8_store_f16(void *p, f32x8 v) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

#else /* SSE2, SSSE3, AVX */
typedef struct {
    __m128i lo, hi;
} i32x8;
N730_FN i32x8 i8_pair(__m128i lo, __m128i hi) {
    i32x8 v = {lo, hi};
    return v;
}
N730_FN i32x8 i8_set(int32_t x) { return i8_pair(_mm_set1_epi32(x), _mm_set1_epi32(x)); }
N730_FN i32x8 i8_zero(void) { return i8_set(0); }
N730_FN i32x8 i8_load(const void *p) {
    return i8_pair(_mm_loadu_si128((const __m128i *)p), _mm_loadu_si128((const __m128i *)p + 1));
}
N730_FN i32x8 i8_add(i32x8 a, i32x8 b) { return i8_pair(_mm_add_epi32(a.lo, b.lo), _mm_add_epi32(a.hi, b.hi)); }
N730_FN i32x8 i8_sub(i32x8 a, i32x8 b) { return i8_pair(_mm_sub_epi32(a.lo, b.lo), _mm_sub_epi32(a.hi, b.hi)); }
/* a × n, both of 16 bits with a sign */
N730_FN i32x8 i8_times(i32x8 a, int n) {
    const __m128i by = _mm_set1_epi32(n);
    return i8_pair(_mm_madd_epi16(a.lo, by), _mm_madd_epi16(a.hi, by));
}
N730_FN void i8_fence(i32x8 *a) {
    N730_FENCE(a->lo);
    N730_FENCE(a->hi);
}
N730_FN f32x8 i8_to_f8(i32x8 a) { return f8_pair(_mm_cvtepi32_ps(a.lo), _mm_cvtepi32_ps(a.hi)); }
N730_FN i32x8 f8_round(f32x8 a) { return i8_pair(_mm_cvtps_epi32(f8_lo(a)), _mm_cvtps_epi32(f8_hi(a))); } /* half to even */
N730_FN f32x8 f8_cast(i32x8 a) { return f8_pair(_mm_castsi128_ps(a.lo), _mm_castsi128_ps(a.hi)); }
N730_FN f32x8 f8_scale2(f32x8 a, i32x8 n) { /* a × 2^n, n in −126 … 127 */
    n = i8_add(n, i8_set(127));
    return f8_mul(a, f8_cast(i8_pair(_mm_slli_epi32(n.lo, 23), _mm_slli_epi32(n.hi, 23))));
}
/* eight i32 in −128 … 127 to bytes */
N730_FN void i8_store_bytes(void *p, i32x8 v) {
    __m128i w = _mm_packs_epi32(v.lo, v.hi);
    _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(w, w));
}
#if N730_SSSE3
N730_FN __m128i swap16(__m128i v) {
    return _mm_shuffle_epi8(v, _mm_setr_epi8(1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
}
N730_FN __m128i swap32(__m128i v) {
    return _mm_shuffle_epi8(v, _mm_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12));
}
#else
N730_FN __m128i swap16(__m128i v) { return _mm_or_si128(_mm_slli_epi16(v, 8), _mm_srli_epi16(v, 8)); }
N730_FN __m128i swap32(__m128i v) {
    v = swap16(v);
    return _mm_or_si128(_mm_slli_epi32(v, 16), _mm_srli_epi32(v, 16));
}
#endif
N730_FN f32x8 f8_load_be(const void *p) {
    i32x8 v = i8_load(p);
    return f8_cast(i8_pair(swap32(v.lo), swap32(v.hi)));
}
/* Eight f16. Shifting them to where FP32 has exponent and fraction (the sign stays) and multiplying by 2^112 is exact,
 * also for subnormals; infinities and NaNs, 65536 and above by then, get their exponent by hand. */
N730_FN f32x8 f8_from_f16(__m128i h) {
    const __m128i zero = _mm_setzero_si128(), keep = _mm_set1_epi32((int32_t)0x8fffe000);
    __m128i lo = _mm_and_si128(_mm_srai_epi32(_mm_unpacklo_epi16(zero, h), 3), keep);
    __m128i hi = _mm_and_si128(_mm_srai_epi32(_mm_unpackhi_epi16(zero, h), 3), keep);
    f32x8 v = f8_mul(f8_cast(i8_pair(lo, hi)), f8_set(0x1p112f));
    return f8_or(v, f8_and(f8_ge(f8_abs(v), f8_set(65536.0f)), f8_set(__builtin_inff())));
}
N730_FN f32x8 f8_load_i8(const void *p) {
    __m128i v = _mm_loadl_epi64((const __m128i *)p);
    v = _mm_unpacklo_epi8(v, v); /* each byte twice: the upper one, shifted down, keeps its sign */
    return i8_to_f8(i8_pair(_mm_srai_epi32(_mm_unpacklo_epi16(v, v), 24), _mm_srai_epi32(_mm_unpackhi_epi16(v, v), 24)));
}
/* Sixteen bytes of two 4-bit numbers each: the upper ones, then the lower ones. */
N730_FN void f8_load_codes(const uint8_t *p, f32x8 upper[2], f32x8 lower[2]) {
    const __m128i zero = _mm_setzero_si128(), mask = _mm_set1_epi32(15), c = _mm_loadu_si128((const __m128i *)p);
    N730_UNROLL for (int h = 0; h < 2; h++) {
        const __m128i half = h ? _mm_unpackhi_epi8(c, zero) : _mm_unpacklo_epi8(c, zero);
        const __m128i a = _mm_unpacklo_epi16(half, zero), b = _mm_unpackhi_epi16(half, zero);
        upper[h] = i8_to_f8(i8_pair(_mm_srli_epi32(a, 4), _mm_srli_epi32(b, 4)));
        lower[h] = i8_to_f8(i8_pair(_mm_and_si128(a, mask), _mm_and_si128(b, mask)));
    }
}
N730_FN f32x8 f8_load_f16(const void *p) { return f8_from_f16(_mm_loadu_si128((const __m128i *)p)); }
N730_FN f32x8 f8_load_f16_be(const void *p) { return f8_from_f16(swap16(_mm_loadu_si128((const __m128i *)p))); }
N730_FN f32x8 f8_load_bf16_be(const void *p) {
    __m128i zero = _mm_setzero_si128(), v = swap16(_mm_loadu_si128((const __m128i *)p));
    return f8_cast(i8_pair(_mm_unpacklo_epi16(zero, v), _mm_unpackhi_epi16(zero, v)));
}
/* f32 bits to f16 bits, half to even; overflow gives infinity, NaN stays NaN (quiet, upper payload kept). */
N730_FN uint16_t f16_from_bits(uint32_t x) {
    uint32_t sign = (x >> 16) & 0x8000, m = x & 0x7fffffff;
    if (m > 0x7f800000) return (uint16_t)(sign | 0x7e00 | ((m >> 13) & 0x3ff));
    if (m >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* 65520 and above */
    if (m < 0x33000000) return (uint16_t)sign;             /* below half of the least subnormal */
    uint32_t drop = 13, value = m - 0x38000000;            /* exponent rebased: 127 − 15 = 112 */
    if (m < 0x38800000) {                                  /* subnormal: the hidden bit comes into the fraction */
        drop = 126 - (m >> 23);
        value = (m & 0x7fffff) | 0x800000;
    }
    uint32_t result = value >> drop, rest = value & ((1u << drop) - 1), half = 1u << (drop - 1);
    return (uint16_t)(sign | (result + (rest > half || (rest == half && (result & 1)))));
}
N730_FN void f8_store_f16(void *p, f32x8 v) {
    uint32_t bits[8];
    uint16_t half[8];
    f8_store(bits, v);
    for (int i = 0; i < 8; i++) half[i] = f16_from_bits(bits[i]);
    __builtin_memcpy(p, half, 16);
}
#endif
#endif
