"""What an optimizer keeps in the core: rows of coefficients, the plan of its leaves, and the way
of a step for which there is nothing to decide."""


@cython.auto_pickle(False)
cdef class Row:
    """What leaves with the same coefficients share. The step keeps `steps` and `fresh`."""

    cdef public int64_t steps
    cdef public bint fresh  # their states have not been written yet
    cdef public bint active  # they take part in this step
    cdef int rule_number
    cdef double[INSTEP_MAX_COEFFICIENTS] coefficients
    cdef instep_power_memory powers

    def set(self, int rule, double sign, tuple coefficients):
        """Use `rule` with these coefficients behind gradient_scale and gradient_limit."""
        cdef int k
        if len(coefficients) > INSTEP_MAX_COEFFICIENTS - 2:
            raise IndexError(len(coefficients))
        self.rule_number = rule
        self.coefficients[0] = sign
        for k in range(len(coefficients)):
            self.coefficients[2 + k] = coefficients[k]


@cython.auto_pickle(False)
cdef class Plan:
    """The leaves of one optimizer. Not safe for concurrent use: the optimizer holds a lock."""

    cdef instep_plan *plan
    cdef double *rows
    cdef int *row_of
    cdef int *counts
    cdef int leaves, row_capacity, row_count
    cdef list parameters
    cdef list given  # what the user may have made read-only: the parameters, or their copies
    cdef list states
    cdef list row_list
    cdef list averages
    cdef list copies
    cdef readonly int reason
    cdef readonly bint exchanged
    cdef int bound
    # What a step does besides the update; averages move by average_weight towards parameters.
    cdef public bint zero_gradients
    cdef public double average_weight
    cdef public uint64_t seed  # of the random bits that states are rounded by

    def __cinit__(self, list parameters):
        cdef int leaf
        cdef bint known
        cdef instep_array array
        self.leaves = len(parameters)
        self.parameters = parameters
        self.given = list(parameters)
        self.states = [None] * self.leaves
        self.averages = [None] * self.leaves
        self.copies = [None] * self.leaves
        self.plan = instep_plan_create(self.leaves)
        self.row_of = <int *>PyMem_Calloc(self.leaves + 1, sizeof(int))
        if self.plan == NULL or self.row_of == NULL:
            raise MemoryError
        for leaf in range(self.leaves):
            array = describe(parameters[leaf], float_code(parameters[leaf]))
            known = array.dtype <= INSTEP_FLOAT64 or array.dtype == INSTEP_BFLOAT16
            if not known or instep_plan_set_parameter(self.plan, leaf, &array):
                raise MemoryError
        self.finish()

    def __dealloc__(self):
        instep_plan_destroy(self.plan)
        PyMem_Free(self.rows)
        PyMem_Free(self.row_of)
        PyMem_Free(self.counts)

    def finish(self):
        """Call after the last of a series of set_rule."""
        if instep_plan_finish(self.plan):
            raise MemoryError

    def set_rule(self, int leaf, int rule, tuple states, tuple scales):
        """Use `rule` with `states`, writable arrays of the parameter's shape, and the scales of
        each, None where it has none."""
        cdef instep_array arrays[INSTEP_MAX_STATES]
        cdef float *blocks[INSTEP_MAX_STATES]
        cdef int k
        for k in range(len(states)):
            arrays[k] = describe(states[k], state_code(states[k]))
            blocks[k] = floats(scales[k])
        instep_plan_set_rule(self.plan, leaf, rule, arrays)
        instep_plan_set_scales(self.plan, leaf, blocks)
        self.states[leaf] = states, scales

    def set_average(self, int leaf, average):
        """Keep a moving average of the parameter in this array of its shape and dtype; None: none.
        """
        cdef instep_array array
        if average is None:
            instep_plan_set_average(self.plan, leaf, NULL)
        else:
            array = describe(average, float_code(average))
            instep_plan_set_average(self.plan, leaf, &array)
        self.averages[leaf] = average

    def set_copy(self, int leaf, copy):
        """Write the parameter, rounded, to this float16 or bfloat16 array too, the user's own;
        None: to none."""
        cdef instep_array array
        if copy is None:
            instep_plan_set_copy(self.plan, leaf, NULL)
        else:
            array = describe(copy, float_code(copy))
            instep_plan_set_copy(self.plan, leaf, &array)
        self.copies[leaf] = copy
        self.given[leaf] = self.parameters[leaf] if copy is None else copy

    def set_rows(self, list row_of_leaf, list rows):
        """The rows of coefficients, and which of them each leaf has."""
        cdef int leaf, row, count = len(rows)
        if count > self.row_capacity:
            PyMem_Free(self.rows)
            PyMem_Free(self.counts)
            self.row_capacity = 0
            self.rows = <double *>PyMem_Calloc(count * INSTEP_MAX_COEFFICIENTS, sizeof(double))
            self.counts = <int *>PyMem_Calloc(count, sizeof(int))
            if self.rows == NULL or self.counts == NULL:
                raise MemoryError
            self.row_capacity = count
        self.row_count = count
        self.row_list = rows
        for leaf in range(self.leaves):
            row = row_of_leaf[leaf]
            self.row_of[leaf] = row
            instep_plan_set_row(self.plan, leaf, row)

    cpdef int bind(self, list gradients) except? -9:
        """Bind this step's gradients; None: no part in it.

        ALL_BOUND, SOME_BOUND, MAY_SHARE, or the leaf where it stopped: `reason` says why."""
        self.bound = 0
        return self.bind_rest(gradients, 0, -1)

    def bind_from(self, list gradients, int start, int trusted):
        """Go on from leaf `start`. `trusted`: a leaf known to be clear of all writes, or -1."""
        return self.bind_rest(gradients, start, trusted)

    cdef int bind_rest(self, list gradients, int start, int trusted) except? -9:
        cdef int leaf, status
        cdef int code
        cdef instep_array array
        cdef object gradient
        if len(gradients) != self.leaves:
            raise ValueError("one gradient per leaf")
        for leaf in range(start, self.leaves):
            gradient = gradients[leaf]
            if gradient is None:
                instep_plan_set_gradient(self.plan, leaf, NULL, 0)
                continue
            if not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>self.given[leaf]):
                self.reason = READ_ONLY
                return leaf
            if not cnp.PyArray_CheckExact(gradient):
                self.reason = NOT_AN_ARRAY
                return leaf
            code = float_code(<cnp.ndarray>gradient)
            if code < 0:
                self.reason = WRONG_DTYPE
                return leaf
            if self.zero_gradients and not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>gradient):
                self.reason = READ_ONLY_GRADIENT
                return leaf
            array = describe(<cnp.ndarray>gradient, code)
            status = instep_plan_set_gradient(self.plan, leaf, &array, leaf == trusted)
            if status:
                self.reason = status
                return leaf
            self.bound += 1
        if self.zero_gradients and not instep_plan_gradients_apart(self.plan, False):
            return MAY_SHARE
        return ALL_BOUND if self.bound == self.leaves else SOME_BOUND

    def trust_apart(self):
        """As `bind` where it found MAY_SHARE: the bound gradients do not."""
        instep_plan_gradients_apart(self.plan, True)
        return ALL_BOUND if self.bound == self.leaves else SOME_BOUND

    def bound_per_row(self, list gradients):
        """How many of the leaves of each row have a gradient."""
        cdef int leaf, row
        for row in range(self.row_count):
            self.counts[row] = 0
        for leaf in range(self.leaves):
            if gradients[leaf] is not None:
                self.counts[self.row_of[leaf]] += 1
        return [self.counts[row] for row in range(self.row_count)]

    def sum_squares(self, double scale, int threads):
        cdef double total
        if instep_plan_bound(self.plan) < KEEP_GIL:
            return instep_plan_sum_squares(self.plan, scale, threads)
        with nogil:
            total = instep_plan_sum_squares(self.plan, scale, threads)
        return total

    cdef step(self, double scale, double limit, int threads, double measured_scale,
              int64_t steps):
        """Update all bound leaves with their gradients scaled and clipped to +-limit. `steps`:
        how many the optimizer has taken; with the seed, it tells random bits apart."""
        cdef instep_step_options options
        cdef Row row
        cdef double *at
        cdef int k
        for k in range(self.row_count):
            row = <Row>self.row_list[k]
            if row.active:
                at = self.rows + k * INSTEP_MAX_COEFFICIENTS
                memcpy(at, row.coefficients, sizeof(row.coefficients))
                at[0] *= scale
                at[1] = limit
                instep_rule_advance(row.rule_number, at, row.steps + 1, row.fresh, &row.powers)
        options.threads = threads
        options.zero_gradients = self.zero_gradients
        options.measure = measured_scale != 0
        options.measured_scale = measured_scale
        options.average_weight = self.average_weight
        options.seed = self.seed
        options.step = <uint64_t>steps
        self.update(&options)
        for k in range(self.row_count):
            row = <Row>self.row_list[k]
            if row.active:
                row.steps += 1
                row.fresh = False

    cdef list in_place(self):
        """The leaves whose average has another type than the parameter: bfloat16 ones."""
        return [leaf for leaf in range(self.leaves) if self.averages[leaf] is not None
                and self.averages[leaf].dtype != self.parameters[leaf].dtype]

    cdef list keep(self):
        """Those parameters, with copies."""
        return [(self.parameters[leaf], self.parameters[leaf].copy()) for leaf in self.in_place()]

    cdef exchange(self, int threads):
        """Parameters and averages exchange their contents."""
        threads = threads if threads > 0 else default_threads
        with nogil:
            instep_plan_exchange(self.plan, threads)
        self.exchanged = not self.exchanged

    cdef void update(self, const instep_step_options *options) noexcept:
        if instep_plan_work(self.plan) < KEEP_GIL:
            instep_plan_step(self.plan, self.rows, options)
            return
        with nogil:
            instep_plan_step(self.plan, self.rows, options)

    def measured(self):
        """Of each leaf in a step that measured: sums of squares of gradient, update and parameter,
        and how many gradient elements the limit cut."""
        cdef instep_measures *found
        cdef int leaf
        found = <instep_measures *>PyMem_Calloc(self.leaves + 1, sizeof(instep_measures))
        if found == NULL:
            raise MemoryError
        try:
            instep_plan_measured(self.plan, found)
            return [(found[leaf].gradient, found[leaf].update, found[leaf].parameter,
                     found[leaf].clipped) for leaf in range(self.leaves)]
        finally:
            PyMem_Free(found)


@cython.auto_pickle(False)
cdef class Steady:
    """The counter and the flag of an optimizer's steps, and the short way of those for which there
    is nothing to decide: no schedule, no clipping, no check of gradients, all of which come, and
    the options, states and leaves of the step before.

    Python opens that way after a step that was such; what changes any of this closes it."""

    cdef public object lock
    cdef public int64_t steps
    cdef public bint stepping
    cdef readonly bint ready
    cdef Plan plan
    cdef object flatten, report, new_report, lr
    cdef list options
    cdef bint flat
    cdef int threads

    def __cinit__(self, lock):
        self.lock = lock

    def open(self, Plan plan, list options, object flatten, bint flat, object report, object lr,
             int threads):
        """`options`: have they `changed`? `flatten(grads, "grads")` makes a list of gradients;
        `flat`: a list is one already."""
        self.plan = plan
        self.options = options
        self.flatten = flatten
        self.flat = flat
        self.report = report
        self.new_report = tuple.__new__
        self.lr = lr
        self.threads = threads
        self.ready = True

    def close(self):
        self.ready = False

    def take(self, gradients):
        """The report of the step. Where it is not for here, nothing has been written: the
        gradients as a flat list, or None if they have not been looked at."""
        cdef list flat = None
        if not self.ready or gradients is None:
            return None
        lock = self.lock
        lock.acquire()
        try:
            if self.stepping or not self.ready:  # called by a step, or another thread came first
                return None
            for options in self.options:
                if options.changed:
                    return None
            self.stepping = True
            try:
                if self.flat and type(gradients) is list:
                    flat = list(gradients)
                else:
                    flat = self.flatten(gradients, "grads")
            finally:
                self.stepping = False
            # What changed meanwhile holds from the next step on, as on the long way.
            if len(flat) != self.plan.leaves:
                return flat
            if self.plan.bind(flat) != ALL_BOUND:
                return flat
            self.step(self.plan, 1.0, INFINITY, self.threads, 0.0)
            return self.new_report(self.report, (self.steps, self.lr, True, None, None, None))
        finally:
            lock.release()

    cpdef step(self, Plan plan, double scale, double limit, int threads, double measured_scale):
        """Take it and count it. Measure if `measured_scale`, by which gradients then count, is not
        0."""
        threads = threads if threads > 0 else default_threads
        plan.step(scale, limit, threads, measured_scale, self.steps)
        self.steps += 1


@cython.auto_pickle(False)
cdef class Exchange:
    """The context in which parameters and averages of a plan have changed places.

    Python runs handlers of signals, which may raise, between any two of its instructions, also in
    a ``finally``; here it does not, so an interrupt comes before an exchange or after it.

    `prepare()` checks that they may and returns the plan."""

    cdef Steady steady
    cdef object prepare
    cdef int threads
    cdef Plan plan  # None outside the block
    cdef list kept  # bfloat16 parameters and their values, which an average cannot hold both

    def __cinit__(self, Steady steady not None, prepare, int threads):
        self.steady = steady
        self.prepare = prepare
        self.threads = threads

    def __enter__(self):
        cdef Plan plan
        lock = self.steady.lock
        lock.acquire()
        try:
            plan = self.prepare()
            self.kept = plan.keep()
            self.steady.close()
            self.plan = plan
            plan.exchange(self.threads)
            for leaf, (parameter, _) in zip(plan.in_place(), self.kept):
                parameter[...] = plan.averages[leaf]
        finally:
            lock.release()

    def __exit__(self, kind, value, trace):
        cdef Plan plan
        lock, interrupt = self.steady.lock, None
        while True:
            try:
                lock.acquire()
                break
            except BaseException as error:  # while another thread held it
                interrupt = error
        plan, self.plan = self.plan, None
        if plan is not None:
            plan.exchange(self.threads)
            for parameter, values in self.kept:
                parameter[...] = values
        lock.release()
        if plan is None:
            raise RuntimeError("swap_ema() was left without being entered, or twice; use `with`")
        if interrupt is not None:
            raise interrupt


# How many threads a step may take where its optimizer does not say.
cdef int default_threads = 1


def set_threads(int threads):
    global default_threads
    default_threads = threads


def get_threads():
    return default_threads
