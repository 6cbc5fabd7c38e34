/* Eight lanes of f32 or i32 on every level of artifacts.py's Isa, with the same bits from all of them. Floats take one
 * register from AVX on, integers from AVX2 on, two before; the compiler's -m flags choose.
 *
 * Only single-rounding operations: no fused multiply-add anywhere (compile with -ffp-contract=off). Big-endian loads
 * live here too (simd_int.h): the file stores every multi-byte field most significant byte first, and it is swapped in registers. */
#ifndef N730_SIMD_H
#define N730_SIMD_H
#include <stdint.h>
#include <immintrin.h>
#ifdef __SSSE3__ /* Core 2, Nehalem: pmaddubsw, pshufb */
#define N730_SSSE3 1
#else
#define N730_SSSE3 0
#endif
#ifdef __AVX__ /* Sandy Bridge: 256 bits of floats, 128 of integers */
#define N730_AVX 1
#else
#define N730_AVX 0
#endif
#if defined(__AVX2__) && defined(__F16C__) /* Haswell */
#define N730_AVX2 1
#else
#define N730_AVX2 0
#endif
#if N730_AVX2 && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__) /* Ice Lake */
#define N730_AVX512 1
#else
#define N730_AVX512 0
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

#include "simd_float.h"
#include "simd_int.h"

/* round-half-even(x · inverse) within ±127; NaN gives 0. */
N730_FN i32x8 f8_to_q8(f32x8 x, f32x8 inverse) {
    f32x8 t = f8_mul(x, inverse);
    t = f8_andnot(f8_nan(t), t);
    return f8_round(f8_min(f8_max(t, f8_set(-127.0f)), f8_set(127.0f)));
}
/* Each lane: the largest of the lanes that are equal to it modulo `period` (1, 2, 4 or 8). */
N730_FN f32x8 f8_max_by_lane(f32x8 v, int period) {
    float x[8];
    if (period == 8) return v;
    f8_store(x, v);
    N730_UNROLL for (int i = period; i < 8; i++) x[i % period] = x[i] > x[i % period] ? x[i] : x[i % period];
    N730_UNROLL for (int i = period; i < 8; i++) x[i] = x[i % period];
    return f8_load(x);
}
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
