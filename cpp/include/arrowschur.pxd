# Cython declarations of the core: systems, one step, factor once and solve many. Compile as C++20 with the include folder
# of the package (arrowschur_native.get_include()) for both Cython and the C++ compiler, and link libarrowschur.
#
#     # distutils: language = c++
#     # cython: cpp_locals = True                 (some of the classes have no default constructor)
#     from arrowschur cimport ArrowSystem, newton_step
from libc.stdint cimport int64_t, uint64_t
from libcpp cimport bool
from libcpp.string cimport string
from libcpp.utility cimport pair
from libcpp.vector cimport vector


cdef extern from "<span>" namespace "std" nogil:
    cdef cppclass span[T]:
        span() except +
        span(T* data, size_t size) except +


cdef extern from "arrowschur/arrowschur.hpp" namespace "arrowschur" nogil:
    ctypedef int64_t Index

    const char* version() noexcept
    vector[pair[string, string]] build_info() except +
    int get_num_threads() noexcept
    void set_num_threads(int n) except +

    cdef enum class Mode:
        automatic
        direct
        sqrt_ba
        low_rank
        inexact_pcg

    cdef enum class Precision:
        float64
        mixed
        float32

    cdef enum class PreconditionerKind:
        ladder
        none
        diagonal
        block
        cluster
        schwarz
        incomplete_cholesky
        power_series
        nystrom
        deflated

    cdef enum class FactorSet:
        step
        evidence

    cdef cppclass Ridges:
        Ridges() except +
        double t
        double beta

    cdef cppclass PcgOptions:
        PcgOptions() except +
        Index max_iterations
        bool float32_storage

    cdef cppclass SolveOptions:
        SolveOptions() except +
        Mode mode
        Precision precision
        bool certificate
        bool tolerate_ill_conditioning
        PcgOptions pcg
        PreconditionerKind preconditioner
        bool accept_truncated
        Index expected_solves

    cdef cppclass SolveDiagnostics:
        SolveDiagnostics(const SolveDiagnostics&) except +
        double backward_error
        double backward_error_effective
        int refinement_steps
        Index rows_lifted
        double kappa_rows_max
        double kappa_schur

    cdef cppclass NewtonStep:
        NewtonStep() except +
        vector[double] delta_t
        vector[double] delta_beta
        SolveDiagnostics diagnostics

    cdef cppclass ArrowSystem:
        ArrowSystem(const ArrowSystem&) except +
        @staticmethod
        ArrowSystem uniform(
            Index n,
            Index d,
            Index k,
            const double* h_tt,
            const double* h_tb,
            const double* h_bb,
            const double* g_t,
            const double* g_beta,
        ) except +
        Index n() noexcept
        Index k() noexcept
        Index total_dim() noexcept
        uint64_t fingerprint() except +

    cdef cppclass ArrowFactor:
        ArrowFactor(const ArrowFactor&) except +
        NewtonStep step() except +
        double log_det() except +
        double log_det(FactorSet factor_set) except +
        void solve(
            span[const double] w_t, span[const double] w_beta, span[double] x_t, span[double] x_beta, Index m
        ) except +

    NewtonStep newton_step(const ArrowSystem& system) except +
    NewtonStep newton_step(const ArrowSystem& system, const Ridges& ridges) except +
    NewtonStep newton_step(const ArrowSystem& system, const Ridges& ridges, const SolveOptions& options) except +
    ArrowFactor factorize(const ArrowSystem& system) except +
    ArrowFactor factorize(const ArrowSystem& system, const Ridges& ridges) except +
    ArrowFactor factorize(const ArrowSystem& system, const Ridges& ridges, const SolveOptions& options) except +
