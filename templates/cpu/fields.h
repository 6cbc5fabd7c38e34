/* The integer formats of weights, FORMAT.md, section 3: a format is a row of each function here, and nothing else is.
 *
 * A field is cut into planes of 8, 4, 2 or 1 bits, each stored in units of 64 bytes (16 rows × 4 bytes); a quad is the
 * fields of four neighbouring columns, and quad j (0 … 7) of a group meets the activations 4j … 4j + 3. `fields` gives
 * what a kernel multiplies, t: unsigned bytes, but signed ones for INT8. The level is times × t − offset.
 * format is a constant after inlining, so that of each function one row remains. */
#ifndef N730_FIELDS_H
#define N730_FIELDS_H
#include "bytes.h"

enum {
    FORMAT_F32,
    FORMAT_F16,
    FORMAT_BF16,
    FORMAT_INT8,
    FORMAT_INT4,
    FORMAT_INT2,
    FORMAT_INT6,
    FORMAT_INT5,
    FORMAT_NL4,
    FORMAT_INT3,
    FORMAT_NL2,
    FORMATS
};
enum { TILE = 16, GROUP = 32 }; /* rows side by side; inputs that share a scale */

/* Bits of the first plane, and of the second or 0. */
N730_FN int first_plane(int format) {
    return format == FORMAT_INT8 ? 8 : format == FORMAT_INT2 || format == FORMAT_INT3 || format == FORMAT_NL2 ? 2 : 4;
}
N730_FN int second_plane(int format) {
    return format == FORMAT_INT6 ? 2 : format == FORMAT_INT5 || format == FORMAT_INT3 ? 1 : 0;
}
N730_FN int format_bits(int format) { return first_plane(format) + second_plane(format); }
/* Whether a scale is a 4-bit code times an FP16 that eight groups share. */
N730_FN int format_coded(int format) { return format >= FORMAT_INT6; }
N730_FN int format_times(int format) { return format == FORMAT_INT2 || format == FORMAT_INT3 ? 2 : 1; }
N730_FN int format_offset(int format) {
    static const uint8_t offsets[FORMATS] = {0, 0, 0, 0, 8, 3, 32, 16, 29, 29, 7};
    return offsets[format];
}
/* The largest t: says how many products fit 16 bits. */
N730_FN int format_most(int format) {
    static const uint8_t most[FORMATS] = {0, 0, 0, 128, 15, 3, 63, 31, 58, 29, 14}; /* INT8: in magnitude */
    return most[format];
}
/* t by field, of the formats whose levels are not evenly spaced; their fields have at most 4 bits. */
N730_FN int format_uneven(int format) { return format == FORMAT_NL4 || format == FORMAT_INT3 || format == FORMAT_NL2; }
N730_FN const uint8_t *level_table(int format) {
    static const uint8_t nl4[16] = {0, 7, 12, 16, 19, 22, 25, 28, 30, 33, 36, 39, 42, 46, 51, 58};
    static const uint8_t int3[16] = {0, 6, 10, 13, 16, 19, 23, 29};
    static const uint8_t nl2[16] = {0, 5, 9, 14};
    return format == FORMAT_NL4 ? nl4 : format == FORMAT_INT3 ? int3 : nl2;
}
#if N730_SSSE3
/* t by the four bits that two NL2 fields lie in, of the upper and the lower one: half the shifts and masks of taking each
 * field out. */
N730_FN const uint8_t *nibble_table(int lower) {
    static const uint8_t upper[16] = {0, 0, 0, 0, 5, 5, 5, 5, 9, 9, 9, 9, 14, 14, 14, 14};
    static const uint8_t both[16] = {0, 5, 9, 14, 0, 5, 9, 14, 0, 5, 9, 14, 0, 5, 9, 14};
    return lower ? both : upper;
}
#endif

/* Quad j of one plane, of `bits` bits a field, in the bits from `at` on of each byte. */
N730_FN bytes plane(const uint8_t *w, int bits, int j, int half, int at) {
    const int count = 8 / bits, shift = 8 - bits - bits * (j % count) - at;
    bytes v = b_load(w + 64 * (j / count) + 32 * half);
    if (bits == 8) return v;
    return b_and(shift > 0 ? b_right(v, shift) : shift < 0 ? b_left(v, -shift) : v, ((1 << bits) - 1) << at);
}
N730_FN bytes fields(int format, const uint8_t *w, int j, int half) {
    const int first = first_plane(format), second = second_plane(format);
#if N730_SSSE3
    if (format == FORMAT_NL2) return b_lookup(plane(w, 4, j / 2, half, 0), nibble_table(j % 2));
#endif
    bytes v = plane(w, first, j, half, second);
    if (second) v = b_or(v, plane(w + TILE * GROUP / 8 * first, second, j, half, 0));
    return format_uneven(format) ? b_lookup(v, level_table(format)) : v;
}
#endif
