# distutils: language = c++
from arrowschur cimport ArrowFactor, ArrowSystem, NewtonStep, Ridges, factorize, newton_step, version
from libcpp.memory cimport make_unique, unique_ptr


def core_version():
    return version().decode()


def solve(double[:, :, ::1] h_tt, double[:, :, ::1] h_tb, double[:, ::1] h_bb, double[::1] g_t, double[::1] g_beta,
          double ridge_t=0.0):
    """Return (delta_t, delta_beta, backward error, log det H) of a uniform system."""
    cdef Ridges ridges
    ridges.t = ridge_t
    cdef unique_ptr[ArrowSystem] system = make_unique[ArrowSystem](ArrowSystem.uniform(
        h_tt.shape[0], h_tt.shape[1], h_bb.shape[0], &h_tt[0, 0, 0], &h_tb[0, 0, 0], &h_bb[0, 0], &g_t[0], &g_beta[0]))
    cdef NewtonStep step
    cdef unique_ptr[ArrowFactor] factor
    with nogil:
        step = newton_step(system.get()[0], ridges)
        factor = make_unique[ArrowFactor](factorize(system.get()[0], ridges))
    return step.delta_t, step.delta_beta, step.diagnostics.backward_error, factor.get().log_det()
