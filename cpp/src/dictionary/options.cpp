#include <array>
#include <cmath>

#include "dictionary/decoder.hpp"
#include "dictionary/errors.hpp"
#include "system/format.hpp"

namespace arrowschur::dictionary {

const char* to_string(Router r) noexcept {
  constexpr std::array names{"topk", "refine", "omp"};
  return names[static_cast<std::size_t>(r)];
}
const char* to_string(Init i) noexcept {
  constexpr std::array names{"auto", "line", "euclidean", "given", "sample"};
  return names[static_cast<std::size_t>(i)];
}
const char* to_string(Keep k) noexcept {
  constexpr std::array names{"best", "last"};
  return names[static_cast<std::size_t>(k)];
}
const char* to_string(Ridge r) noexcept {
  constexpr std::array names{"fixed", "evidence"};
  return names[static_cast<std::size_t>(r)];
}
const char* to_string(StopReason r) noexcept {
  constexpr std::array names{"tolerance", "plateau", "callback", "max_iter", "interrupted"};
  return names[static_cast<std::size_t>(r)];
}

std::optional<InvalidArgument> complaint(const Options& o) {
  const auto at_least = [](const char* name, Index value, Index least) -> std::optional<InvalidArgument> {
    if (value >= least) return std::nullopt;
    return broken_rule(name, "must be at least " + std::to_string(least), std::to_string(value));
  };
  const auto at_most = [](const char* name, Index value, Index most) -> std::optional<InvalidArgument> {
    if (value <= most) return std::nullopt;
    return broken_rule(name, "must be at most " + std::to_string(most), std::to_string(value));
  };
  const auto non_negative = [](const char* name, double value) -> std::optional<InvalidArgument> {
    if (std::isfinite(value) && value >= 0.0) return std::nullopt;
    return broken_rule(name, "must be finite and non-negative", format_number(value));
  };
  std::optional<InvalidArgument> bad;
  for (const auto& rule :
       {at_least("n_components", o.n_components, 1), at_most("n_components", o.n_components, 0xFFFFFFFE),
        at_least("n_nonzero_coefs", o.n_nonzero_coefs, 1), at_least("refine_factor", o.refine_factor, 2),
        at_most("refine_factor", o.refine_factor, 64), at_least("max_iter", o.max_iter, 1), non_negative("tol", o.tol),
        at_least("patience", o.patience, 0), non_negative("code_ridge", o.code_ridge),
        non_negative("decoder_ridge", o.decoder_ridge), at_least("refreshes_per_epoch", o.refreshes_per_epoch, 1),
        at_most("refreshes_per_epoch", o.refreshes_per_epoch, 64), at_least("batch_size", o.batch_size, 1),
        at_least("score_tile", o.score_tile, 1), at_least("revive_min_fires", o.revive_min_fires, 1),
        at_least("revive_pool", o.revive_pool, 1),
        at_least("refresh_memory_bytes", o.refresh_memory_bytes, Index{1} << 20),
        at_least("n_jobs", o.num_threads.value_or(1), 1)}) {
    if (rule) {
      bad.emplace(*rule);
      return bad;
    }
  }
  if (o.profile_step && effective_slots(o) != 1) {
    bad.emplace(broken_rule("profile_step", "needs n_nonzero_coefs = 1", std::to_string(o.n_nonzero_coefs)));
  }
  return bad;
}

}  // namespace arrowschur::dictionary
