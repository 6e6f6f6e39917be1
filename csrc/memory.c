/* memory.c: malloc that counts, so that a test can show what a step allocates: nothing. */
#include <stdatomic.h>
#include <stdlib.h>

#include "table.h"

static atomic_size_t allocations;

void *instep_allocate(size_t bytes)
{
    atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
    return calloc(1, bytes > 0 ? bytes : 1);
}

void instep_free(void *memory) { free(memory); }

size_t instep_allocations(void) { return atomic_load_explicit(&allocations, memory_order_relaxed); }
