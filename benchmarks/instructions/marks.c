/* marks.c: what a counted process says to callgrind, as functions that ctypes can call. */
#include <valgrind/callgrind.h>
#include <valgrind/valgrind.h>

int counted(void) { return RUNNING_ON_VALGRIND != 0; }

/* To begin and to end counting at all makes valgrind translate everything anew: once is enough. */
void start(void) { CALLGRIND_START_INSTRUMENTATION; }

void begin(void) { CALLGRIND_ZERO_STATS; }

/* Write what has been counted since `begin` to a file of its own, under this name. */
void end(const char *name) { CALLGRIND_DUMP_STATS_AT(name); }
