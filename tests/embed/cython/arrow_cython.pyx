# distutils: language = c++
# cython: cpp_locals = True
from arrowschur cimport ArrowFactor, ArrowSystem, NewtonStep, Ridges, factorize, newton_step, version


def core_version():
    return version().decode()


def solve(double[:, :, ::1] h_tt, double[:, :, ::1] h_tb, double[:, ::1] h_bb, double[::1] g_t, double[::1] g_beta,
          double ridge_t=0.0):
    """Return (delta_t, delta_beta, backward error, log det H) of a uniform system."""
    cdef Ridges ridges = Ridges()
    ridges.t = ridge_t
    cdef ArrowSystem system = ArrowSystem.uniform(
        h_tt.shape[0], h_tt.shape[1], h_bb.shape[0], &h_tt[0, 0, 0], &h_tb[0, 0, 0], &h_bb[0, 0], &g_t[0], &g_beta[0])
    cdef NewtonStep step
    cdef double log_det
    with nogil:
        step = newton_step(system, ridges)
        log_det = factorize(system, ridges).log_det()
    return step.delta_t, step.delta_beta, step.diagnostics.backward_error, log_det
