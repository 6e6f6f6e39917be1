/* labels.h: rows of classes, and class labels of any integer type. */
#ifndef INSTEP_LABELS_H
#define INSTEP_LABELS_H

#include <string.h>

#include "view.h"

/* One row of a loss over classes. */
typedef struct {
    char *pred, *gradient;
    const char *target;
    int64_t label; /* -1 with soft targets */
    double height; /* the effective target at the label, if it is 0 elsewhere: a spike */
    int spike, ignored;
} instep_class_row;

/* The label at `at`; INT64_MIN where int64 does not hold it. */
static inline int64_t read_label(const char *at, instep_dtype dtype)
{
    int8_t i8;
    int16_t i16;
    int32_t i32;
    int64_t i64;
    uint8_t u8;
    uint16_t u16;
    uint32_t u32;
    uint64_t u64;
    switch (dtype) {
    case INSTEP_INT8: memcpy(&i8, at, sizeof i8); return i8;
    case INSTEP_INT16: memcpy(&i16, at, sizeof i16); return i16;
    case INSTEP_INT32: memcpy(&i32, at, sizeof i32); return i32;
    case INSTEP_INT64: memcpy(&i64, at, sizeof i64); return i64;
    case INSTEP_UINT8: memcpy(&u8, at, sizeof u8); return u8;
    case INSTEP_UINT16: memcpy(&u16, at, sizeof u16); return u16;
    case INSTEP_UINT32: memcpy(&u32, at, sizeof u32); return u32;
    default: /* INSTEP_UINT64; the callers admit integers only */
        memcpy(&u64, at, sizeof u64);
        return u64 <= INT64_MAX ? (int64_t)u64 : INT64_MIN;
    }
}

/* out[i] = the label at position start + i of the walk. */
static inline void load_labels(int64_t *out, const instep_view *view, size_t start, size_t count)
{
    while (count > 0) {
        const size_t run = instep_view_run(view, start, count);
        const char *at = instep_view_at(view, start);
        if (view->dtype == INSTEP_INT64)
            for (size_t i = 0; i < run; ++i) memcpy(out + i, at + (intptr_t)i * view->stride, 8);
        else
            for (size_t i = 0; i < run; ++i)
                out[i] = read_label(at + (intptr_t)i * view->stride, (instep_dtype)view->dtype);
        out += run;
        start += run;
        count -= run;
    }
}

#endif
