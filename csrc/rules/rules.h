/* rules.h: every rule, for the way in which its states lie that has been defined by
 *
 *     KEPT                             the type of an element of a state
 *     RULED(name)                      the name of a function that exists once for each way
 *     PREPARE(g, p, ...)               see gradient.h
 *     DRAW(key)                        random bits for what PUT keeps of the next element
 *     GET(state, i)                    element i as REAL
 *     PUT(state, k, i, value)          keep it; the state is the rule's k-th
 *
 * which end here. */
#include "sgd.h"
#include "rmsprop.h"
#include "adam.h"

#undef KEPT
#undef RULED
#undef PREPARE
#undef DRAW
#undef GET
#undef PUT
