/* typed.h: every body for one compute type. REAL_BITS is set by variant.h. */
#include "real.h"
#include "stored.h"
#include "vmath.h"
#include "tile.h"
#include "reduce.h"
#include "rules/gradient.h"
#include "kept.h"
#include "extras.h"
#include "states.h"
#include "step.h"
#include "losses/mse.h"
#include "losses/mae.h"
#include "losses/huber.h"
#include "losses/smooth_l1.h"
#include "losses/log_cosh.h"
#include "losses/quantile.h"
#include "losses/poisson_nll.h"
#include "losses/binary_cross_entropy.h"
#include "losses/logistic.h"
#include "losses/binary_cross_entropy_with_logits.h"
#include "losses/focal.h"
#include "losses/hinge.h"
#include "losses/kl_div.h"
#include "losses/elementwise.h"
#include "losses/classes.h"
#include "losses/cross_entropy.h"
#include "losses/softmax_rows.h"
#include "losses/categorical_cross_entropy.h"
#include "losses/region.h"

static const instep_typed FN(typed) = {
    .step = FN(step),
    .follow = FN(follow),
    .exchange = FN(exchange),
    .elementwise = FN(elementwise),
    .classwise =
        {
#define CLASSWISE(loss) FN(loss),
#include "kernels.def"
        },
    .region_sums = FN(region_sums),
    .region_gradient = FN(region_gradient),
    .count_outside = FN(count_outside),
};
