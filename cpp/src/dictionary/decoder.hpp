// What the one-shot fit and streams share: the first decoder, and the step from one decoder to the next.
#pragma once

#include <optional>

#include "dictionary/pass.hpp"
#include "dictionary/refresh.hpp"

namespace arrowschur::dictionary {

void check(const Options& options);           // throws the first complaint
void check_init(const Options& options, const std::vector<double>* given, Index width);
Index effective_slots(const Options& options);  // min(s, K)
double packed_ridge(const Options& options, int exponent);  // decoder_ridge in the units of rows packed with 2^-e
RouteSettings route_settings(const Options& options);

// The projected seed [k, p]: rows picked by options.init, or `given` [k, p]; zeros where there are fewer directions.
std::vector<float> seed_decoder(Packer& pack, Index p, const Options& options, const std::vector<double>* given);

// How much of the variance rows explain; rows of no variance are explained when their energy is.
double explained_variance(double rss, double tss, double energy) noexcept;

struct Step {
  RefreshReport refresh;
  std::vector<Index> revived;
};
// next = the refreshed, projected and revived decoder after the pass that left `statistics` (destroyed) with decoder d.
// `fired`: what counts for liveness and death, one number per atom. `floor`: no revival from rows below it.
struct StepInput {
  Statistics& statistics;
  const float* d;
  Index k, p, s;
  double ridge;  // decoder_ridge in the units of the packed rows
  bool ridge_relative, revive;
  Index budget;
  const std::vector<char>& dead;
  const Reservoir& reservoir;
  double floor;
  std::function<CodedRow(const Reservoir::Entry&)> look_up;
  Index epoch;
  bool unit_sweep = false;
  // Instead of the refresh: the directions of the live atoms into rows of b [k, p]; empty: not wanted.
  std::function<void(const std::vector<char>& live, double* b)> profile = {};
};
Step next_decoder(const StepInput& in, std::vector<float>& next, StepSeconds& seconds);

std::vector<char> dead_atoms(const std::vector<std::uint64_t>& fires, Index min_fires);
Index count_dormant(const float* d, Index k, Index p);

}  // namespace arrowschur::dictionary
