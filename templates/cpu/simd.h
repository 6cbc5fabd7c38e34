/* Eight lanes of f32 or i32, on SSE2 (two registers) or AVX2 + F16C (one), with the same bits from both.
 *
 * Only single-rounding operations: no fused multiply-add anywhere (compile with -ffp-contract=off). Big-endian loads
 * live here too: the file stores every multi-byte field most significant byte first, and it is swapped in registers. */
#ifndef N730_SIMD_H
#define N730_SIMD_H
#include <stdint.h>
#if defined(__AVX2__) && defined(__F16C__)
#define N730_AVX2 1
#include <immintrin.h>
#else
#define N730_AVX2 0
#include <emmintrin.h>
#endif

#define N730_FN static inline __attribute__((always_inline, unused))
/* Loops over columns and halves have constant small counts and index arrays of registers: they must vanish. */
#define N730_UNROLL _Pragma("GCC unroll 16")
/* An accumulator must be finished here: without this fence GCC postpones all additions of an unrolled loop to its end
 * and keeps every addend on the stack. It emits no instruction. */
#define N730_FENCE(v) __asm__("" : "+x"(v))

N730_FN int32_t load_i32(const void *p) {
    int32_t v;
    __builtin_memcpy(&v, p, 4);
    return v;
}
N730_FN float load_f32(const void *p) {
    float v;
    __builtin_memcpy(&v, p, 4);
    return v;
}
N730_FN float load_f32_be(const void *p) {
    uint32_t v;
    float f;
    __builtin_memcpy(&v, p, 4);
    v = __builtin_bswap32(v);
    __builtin_memcpy(&f, &v, 4);
    return f;
}
N730_FN float sqrt_f32(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }

/* ((s0+s4)+(s2+s6))+((s1+s5)+(s3+s7)), given s0+s4, s1+s5, s2+s6, s3+s7 */
N730_FN float sum4(__m128 v) {
    v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps(v, v, 1)));
}

#if N730_AVX2
typedef __m256 f32x8;
typedef __m256i i32x8;
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
N730_FN f32x8 f8_abs(f32x8 a) { return _mm256_and_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff))); }
N730_FN f32x8 f8_neg(f32x8 a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }
N730_FN f32x8 f8_nan(f32x8 a) { return _mm256_cmp_ps(a, a, _CMP_UNORD_Q); } /* all ones where a is NaN */
N730_FN f32x8 f8_or(f32x8 a, f32x8 b) { return _mm256_or_ps(a, b); }
N730_FN f32x8 f8_andnot(f32x8 mask, f32x8 a) { return _mm256_andnot_ps(mask, a); }
N730_FN float f8_sum(f32x8 v) { return sum4(_mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1))); }
N730_FN float f8_hmax(f32x8 v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}
N730_FN i32x8 i8_zero(void) { return _mm256_setzero_si256(); }
N730_FN i32x8 i8_set(int32_t x) { return _mm256_set1_epi32(x); }
N730_FN i32x8 i8_add(i32x8 a, i32x8 b) { return _mm256_add_epi32(a, b); }
N730_FN i32x8 i8_sub(i32x8 a, i32x8 b) { return _mm256_sub_epi32(a, b); }
N730_FN void i8_fence(i32x8 *a) { N730_FENCE(*a); }
N730_FN i32x8 i8_times8(i32x8 a) { return _mm256_slli_epi32(a, 3); }
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
N730_FN i32x8 i8_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
N730_FN f32x8 f8_load_be(const void *p) {
    const __m256i swap = _mm256_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 3, 2, 1, 0, 7, 6, 5, 4,
                                          11, 10, 9, 8, 15, 14, 13, 12);
    return _mm256_castsi256_ps(_mm256_shuffle_epi8(i8_load(p), swap));
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

#else /* SSE2 */
typedef struct {
    __m128 lo, hi;
} f32x8;
typedef struct {
    __m128i lo, hi;
} i32x8;
N730_FN f32x8 f8_pair(__m128 lo, __m128 hi) {
    f32x8 v = {lo, hi};
    return v;
}
N730_FN i32x8 i8_pair(__m128i lo, __m128i hi) {
    i32x8 v = {lo, hi};
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
N730_F8(f8_or, _mm_or_ps)
N730_F8(f8_andnot, _mm_andnot_ps)
#undef N730_F8
N730_FN f32x8 f8_abs(f32x8 a) { return f8_andnot(f8_set(-0.0f), a); }
N730_FN f32x8 f8_neg(f32x8 a) {
    __m128 sign = _mm_set1_ps(-0.0f);
    return f8_pair(_mm_xor_ps(a.lo, sign), _mm_xor_ps(a.hi, sign));
}
N730_FN f32x8 f8_nan(f32x8 a) { return f8_pair(_mm_cmpunord_ps(a.lo, a.lo), _mm_cmpunord_ps(a.hi, a.hi)); }
N730_FN float f8_sum(f32x8 v) { return sum4(_mm_add_ps(v.lo, v.hi)); }
N730_FN float f8_hmax(f32x8 v) {
    __m128 m = _mm_max_ps(v.lo, v.hi);
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}
N730_FN i32x8 i8_set(int32_t x) { return i8_pair(_mm_set1_epi32(x), _mm_set1_epi32(x)); }
N730_FN i32x8 i8_zero(void) { return i8_set(0); }
N730_FN i32x8 i8_add(i32x8 a, i32x8 b) { return i8_pair(_mm_add_epi32(a.lo, b.lo), _mm_add_epi32(a.hi, b.hi)); }
N730_FN i32x8 i8_sub(i32x8 a, i32x8 b) { return i8_pair(_mm_sub_epi32(a.lo, b.lo), _mm_sub_epi32(a.hi, b.hi)); }
N730_FN void i8_fence(i32x8 *a) {
    N730_FENCE(a->lo);
    N730_FENCE(a->hi);
}
N730_FN i32x8 i8_times8(i32x8 a) { return i8_pair(_mm_slli_epi32(a.lo, 3), _mm_slli_epi32(a.hi, 3)); }
N730_FN f32x8 i8_to_f8(i32x8 a) { return f8_pair(_mm_cvtepi32_ps(a.lo), _mm_cvtepi32_ps(a.hi)); }
N730_FN i32x8 f8_round(f32x8 a) { return i8_pair(_mm_cvtps_epi32(a.lo), _mm_cvtps_epi32(a.hi)); } /* half to even */
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
N730_FN i32x8 i8_load(const void *p) {
    return i8_pair(_mm_loadu_si128((const __m128i *)p), _mm_loadu_si128((const __m128i *)p + 1));
}
N730_FN __m128i swap16(__m128i v) { return _mm_or_si128(_mm_slli_epi16(v, 8), _mm_srli_epi16(v, 8)); }
N730_FN __m128i swap32(__m128i v) {
    v = swap16(v);
    return _mm_or_si128(_mm_slli_epi32(v, 16), _mm_srli_epi32(v, 16));
}
N730_FN f32x8 f8_load_be(const void *p) {
    i32x8 v = i8_load(p);
    return f8_cast(i8_pair(swap32(v.lo), swap32(v.hi)));
}
/* Four f16 in the high halves of four lanes. Shifting them to where FP32 has exponent and fraction (the sign stays) and
 * multiplying by 2^112 is exact, also for subnormals; infinities and NaNs, 65536 and above by then, get their exponent
 * by hand. */
N730_FN __m128 f4_from_f16(__m128i h) {
    __m128i bits = _mm_and_si128(_mm_srai_epi32(h, 3), _mm_set1_epi32((int32_t)0x8fffe000));
    __m128 scaled = _mm_mul_ps(_mm_castsi128_ps(bits), _mm_castsi128_ps(_mm_set1_epi32(0x77800000)));
    __m128i v = _mm_castps_si128(scaled), magnitude = _mm_and_si128(v, _mm_set1_epi32(0x7fffffff));
    __m128i special = _mm_cmpgt_epi32(magnitude, _mm_set1_epi32(0x477fffff));
    return _mm_castsi128_ps(_mm_or_si128(v, _mm_and_si128(special, _mm_set1_epi32(0x7f800000))));
}
N730_FN f32x8 f8_from_f16(__m128i h) {
    __m128i zero = _mm_setzero_si128();
    return f8_pair(f4_from_f16(_mm_unpacklo_epi16(zero, h)), f4_from_f16(_mm_unpackhi_epi16(zero, h)));
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

/* The first n (1 … 8) elements; the other lanes are zero. */
N730_FN f32x8 f8_load_part(const float *p, int64_t n) {
    float v[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    if (n >= 8) return f8_load(p);
    for (int64_t i = 0; i < n; i++) v[i] = p[i];
    return f8_load(v);
}
N730_FN void f8_store_part(float *p, f32x8 x, int64_t n) {
    float v[8];
    if (n >= 8) {
        f8_store(p, x);
        return;
    }
    f8_store(v, x);
    for (int64_t i = 0; i < n; i++) p[i] = v[i];
}
#endif
