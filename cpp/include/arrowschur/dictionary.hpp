// Sparse dictionaries: K unit directions such that every row is a combination of at most s of them.
//
//     J(D, C) = sum_i |x_i - sum_j C_ij d_(I_ij)|^2 + rho_c sum C_ij^2 + rho_d |D|_F^2,     at most s atoms per row
//
// Alternates five steps: route (choose the atoms of each row), code (least squares on the chosen atoms), refresh (the
// exact decoder of these codes, "method of optimal directions": Engan, Aase, Husoy, ICASSP 1999), project (unit rows),
// revive (unused atoms take the residuals of the worst rows). No object of N x K entries is ever formed.
//
// Determinism. No random numbers. Every sum has one fixed order: the bits of a result do not depend on the number of
// threads, the size of a minibatch or of a score tile, nor on how a stream is cut into shards. Supports and codes, given
// a decoder, do not depend on the instruction set either.
//
// Device. Atoms are searched for on a CUDA device under device = required, and under automatic where a minibatch has 2^20
// scores or more and the call is large enough; everything else is done on the CPU. Results have the same bits. A failure
// before the first minibatch sends automatic to the CPU, a later one is a DeviceError.
//
// Errors: InvalidArgument with a text that begins "sparse_dictionary: ", ArrowError for results that are not finite; for
// device = required DeviceUnavailableError, and UnsupportedConfiguration for the router omp or more than 128 atoms of a row.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "arrowschur/error.hpp"
#include "arrowschur/options.hpp"
#include "arrowschur/types.hpp"

namespace arrowschur::dictionary {

enum class Router { topk, refine, omp };  // largest |<x, d>|; greedy on a shortlist; orthogonal matching pursuit
enum class Init { automatic, line, euclidean, given, sample };
enum class Keep { best, last };
enum class Ridge { fixed, evidence };
enum class StopReason { tolerance, plateau, callback, max_iter, interrupted };
const char* to_string(Router) noexcept;
const char* to_string(Init) noexcept;
const char* to_string(Keep) noexcept;
const char* to_string(Ridge) noexcept;
const char* to_string(StopReason) noexcept;

// ---- rows -----------------------------------------------------------------------------------------------------------
// N rows of P numbers, borrowed: float or double in memory (row i at data + i stride, columns adjacent), or read on
// demand. `read` fills rows first .. first + count - 1 (row-major, P apart) into a buffer of the source's type; it is
// called on the thread that made the call, never from two places at once, one minibatch at a time and again in every
// pass; it must give the same values each time. Doubles are rounded to float one minibatch at a time (after range scaling).
struct Rows {
  Index count = 0, width = 0;
  DType dtype = DType::float32;
  const void* data = nullptr;  // null: read
  Index stride = 0;  // entries from one row to the next
  std::function<void(Index first, Index count, void* out)> read;

  static Rows of(const float* data, Index count, Index width);
  static Rows of(const double* data, Index count, Index width);
  bool in_place() const noexcept { return data != nullptr; }
};

// ---- options --------------------------------------------------------------------------------------------------------
struct Options {
  Index n_components = 0;  // K, 1 .. 2^32 - 2
  Index n_nonzero_coefs = 8;  // s, clamped to K
  Router router = Router::topk;
  Index refine_factor = 4;  // 2 .. 64: shortlist of refine = factor s
  Index max_iter = 30;  // refreshes
  double tol = 1e-6;  // change of EV
  Index patience = 5;  // epochs without gain before "plateau"; 0: never
  double code_ridge = 1e-6;  // rho_c
  double decoder_ridge = 1e-6;  // rho_d, in units of data squared
  // evidence: one ridge rho for codes and decoder, found by  rho <- RSS / (N P - gamma) gamma / sum c^2  until its
  // logarithm moves by at most sqrt(tol) (MacKay, Neural Comput. 4, 1992); gamma = sum sigma^2 / (sigma^2 + rho) over the
  // singular values of every row's atoms. code_ridge is where it starts. Not for streams.
  Ridge ridge = Ridge::fixed;
  bool decoder_ridge_relative = false;  // rho_d times the mean A_kk of the live atoms
  bool unit_sweep = false;  // after the refresh, every atom once to the best unit row given the others
  bool profile_step = false;  // s = 1: an atom becomes the leading direction of its rows. Not for streams
  Index refreshes_per_epoch = 1;  // 1 .. 64; above 1 not for streams
  bool center = false;  // subtract the column means
  Init init = Init::automatic;  // line, or sample when N K P > 2^42; given when a dict_init is passed
  Index batch_size = 512;  // rows of a minibatch
  Index score_tile = 4096;  // atoms of a score tile, upper bound
  bool revive = true;
  Index revive_min_fires = 1;  // an atom that fired less often is dead
  Index revive_pool = 4096;  // worst rows that are remembered
  Index refresh_memory_bytes = Index{1} << 30;  // above it A is stored sparse
  Keep keep = Keep::best;
  bool keep_codes = true;  // false: no indices and codes in the result
  Device device = Device::automatic;
  std::optional<int> num_threads;  // none: get_num_threads()
};
// The first broken rule, as the error that the calls below throw.
std::optional<InvalidArgument> complaint(const Options&);

// ---- what an epoch tells ----------------------------------------------------------------------------------------------
struct RefreshReport {
  std::string method = "none";  // none, division, cholesky, conjugate_gradients, mixed, profile
  Index components = 0, max_component = 0;
  Index nnz = 0;  // off-diagonal entries of A that are stored, both triangles counted
  Index iterations = 0;  // of conjugate gradients, the most of any component
  double relative_residual =
      0.0;  // |(A + rho_d I) D - B|_F / |B|_F before rounding (for Cholesky: estimated by probes)
  double bump = 0.0;  // added to the diagonal after a breakdown
  Index failed_columns = 0;
};
struct StepSeconds {
  double route = 0, codes = 0, accumulate = 0, refresh = 0, project = 0, revive = 0;
};
struct EpochRecord {
  Index epoch = 0;
  double ev = 0, rss = 0, l0 = 0;
  Index alive = 0, dead = 0;  // atoms that fired in this pass, and those that did not
  Index revived = 0, accepted = 0;  // installed before this pass; of these, fired in it
  RefreshReport refresh;  // that led to the decoder of this pass
  StepSeconds seconds;
};
// Counters of routing since the call began. On a device candidates are scored there and not counted.
struct RouteReport {
  Index minibatches = 0, device_minibatches = 0, cpu_minibatches = 0;
  double score_flops = 0;
  Index rescored = 0;  // exact scores of candidates
  Index rescanned_rows = 0;  // rows with more candidates than are kept
  Index peak_score_bytes = 0, device_to_host_bytes = 0;
};

struct Fit {
  Index rows = 0, width = 0, n_components = 0, n_nonzero_coefs = 0;  // N, P, K, effective s
  std::vector<float> decoder;  // [K, P]
  std::vector<std::uint32_t> indices;  // [N, s]; empty slots repeat the row's first index
  std::vector<float> codes;  // [N, s]; 0 in empty slots
  std::vector<float> mean;  // [P], zeros unless `center`
  int exponent = 0;  // e of range scaling: rows are packed as x 2^-e
  double explained_variance = 0, fvu = 0, rss = 0, tss = 0, l0 = 0;
  std::vector<double> ev_path;  // [n_iter + 1]
  Index n_iter = 0, best_epoch = 0;
  bool converged = false;
  StopReason stop_reason = StopReason::max_iter;
  std::vector<std::uint64_t> atom_fires;  // [K]
  Index alive = 0, dead = 0, dormant = 0;  // fired in the returned pass; did not; of the dead, zero rows
  std::vector<EpochRecord> epochs;  // epochs 1 .. n_iter
  RouteReport route;
  double seed_seconds = 0;
  double ridge = 0;  // the code ridge in force; with Ridge::evidence that of the decoder too
  Index ridge_steps = 0;  // fits that Ridge::evidence made
};

// Called after each epoch e >= 1 on the calling thread; false ends the fit with "callback".
using Progress = std::function<bool(const EpochRecord&)>;

// One-shot fit. `dict_init` [K, P] (float64) goes with Init::given (or automatic). An interrupt (threads.hpp) after the
// first pass ends the fit with "interrupted" and the best state so far; before that it throws Interrupted.
Fit fit(const Rows& rows, const Options& options, const std::vector<double>* dict_init = nullptr,
        const Progress& progress = {});

// ---- frozen decoder ---------------------------------------------------------------------------------------------------
struct EncodeOptions {
  Index n_nonzero_coefs = 8;
  Router router = Router::topk;
  Index refine_factor = 4;
  double code_ridge = 1e-6;
  Index batch_size = 512, score_tile = 4096;
  Device device = Device::automatic;
  std::optional<int> num_threads;
};

struct Metrics {
  double mse = 0, mse_row = 0, explained_variance = 0, explained_variance_row = 0, fvu = 0, l0 = 0, l1 = 0,
         l2_ratio = 0, cosine = 0, alive_fraction = 0, dead_fraction = 0;
  std::vector<double> firing_frequency;  // [K]
};

// Whether the supports of rows are optimal to first order: the ratio  max over k outside S of |d_k'r|, over
// min over k in S of |c_k|. At most 1 certifies the support (slack 1e-4); a large one names an atom that wants in.
struct DualReport {
  std::vector<double> ratios;  // [N]; 0 for rows without residual or without atoms
  std::vector<std::uint32_t> atoms;  // [N] the atom of the maximum
  double quantiles[4] = {};  // of the ratios at 0.5, 0.9, 0.99, 1
  double certified_fraction = 0;  // ratios <= 1 + 1e-4
};

// A decoder with its mean and exponent, copied. Immutable; calls from several threads are safe.
class Model {
 public:
  // decoder [K, P] with rows of norm 1 (within 1e-5) or 0, mean [P]; all finite.
  Model(std::vector<float> decoder, Index n_components, Index width, std::vector<float> mean, int exponent = 0);
  Index n_components() const noexcept { return k_; }
  Index width() const noexcept { return p_; }
  const std::vector<float>& decoder() const noexcept { return decoder_; }
  const std::vector<float>& mean() const noexcept { return mean_; }
  int exponent() const noexcept { return exponent_; }

  // indices, codes [N, min(s, K)]. Memory beside the outputs does not depend on N.
  RouteReport encode(const Rows&, const EncodeOptions&, std::uint32_t* indices, float* codes) const;
  // sum_j c_j d_j + mu in ascending slots, in float64, rounded once: out [N, P]. InvalidArgument for an index >= K.
  void decode(const std::uint32_t* indices, const float* codes, Index rows, Index slots, float* out,
              std::optional<int> num_threads = {}) const;
  // Explained variance of the rows with this decoder.
  double score(const Rows&, const EncodeOptions&) const;
  Metrics metrics(const Rows&, const EncodeOptions&) const;
  DualReport dual_report(const Rows&, const EncodeOptions&) const;
  // The same atoms and n_components - K more: farthest lines among the residuals of the rows (of max(4 n_components, 65536)
  // of them, evenly taken). Atoms for which no direction is left are zeros.
  Model grow(const Rows&, Index n_components, const EncodeOptions&) const;

 private:
  std::vector<float> decoder_, mean_;
  Index k_, p_;
  int exponent_;
};

// ---- streams ------------------------------------------------------------------------------------------------------------
struct ShardReport {
  Index rows = 0;
  double rss = 0;  // of these rows
  Index alive = 0;  // atoms that have fired in this epoch
};

// Trains on shards of rows; state is O(K P + A), never O(N). Not thread-safe. After an interrupt the rows of whole
// minibatches that were done are counted (rows_in_epoch), the rest of the shard is not.
class Stream {
 public:
  // Seeds from rows (which fix e and, with `center`, mu, and are not counted), or continues from a model.
  Stream(const Rows& seed, const Options& options, const std::vector<double>* dict_init = nullptr);
  Stream(const Model& seed, const Options& options);
  Stream(Stream&&) noexcept;
  Stream& operator=(Stream&&) noexcept;
  ~Stream();

  ShardReport partial_fit(const Rows& shard);
  // Refresh, project, revive; the record is that of the pass that ends here.
  EpochRecord end_epoch();
  // partial_fit and refresh at once on exponentially forgotten statistics: A <- beta A + A_new, B likewise, firing counts
  // too, beta = max(0, 1 - rows / window_rows); an atom is dead once it has not fired for window_rows rows. The record is
  // that of these rows under the decoder before the refresh.
  EpochRecord step(const Rows& rows, Index window_rows);

  // After at least one closed epoch: the decoder in force (keep = best: that of the best closed epoch) and the story.
  // indices and codes are empty.
  Fit finalize() const;
  Model model() const;  // the decoder in force, at any time
  const Options& options() const noexcept;
  Index rows_in_epoch() const noexcept;
  Index epochs() const noexcept;  // closed
  bool converged() const noexcept;

  std::string save() const;  // the complete state; load() continues bit for bit
  static Stream load(std::string_view bytes);

 private:
  struct State;
  friend struct StreamFile;
  explicit Stream(std::unique_ptr<State>);
  std::unique_ptr<State> state_;
};

}  // namespace arrowschur::dictionary
