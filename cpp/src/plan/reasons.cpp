// A plan in sentences with numbers.
#include <cstring>

#include "arrowschur/plan.hpp"
#include "arrowschur/profile.hpp"
#include "system/format.hpp"

namespace arrowschur {
namespace {

std::string duration(double seconds) {
  char text[32];
  if (seconds < 1e-3) {
    std::snprintf(text, sizeof text, "%.3g us", seconds * 1e6);
  } else if (seconds < 1.0) {
    std::snprintf(text, sizeof text, "%.3g ms", seconds * 1e3);
  } else {
    std::snprintf(text, sizeof text, "%.3g s", seconds);
  }
  return text;
}

std::string name_of(const PlanCandidate& c) {
  std::string name = to_string(c.route);
  if (c.sparse_schur) name += " with a sparse S";
  return name;
}

bool same(const SolvePlan& plan, const PlanCandidate& c) {
  return c.route == plan.route && c.sparse_schur == plan.sparse_schur;
}

std::string cost_of(const PlanCandidate& c, const SolvePlan::Facts& f) {
  const std::string solves = f.solves == 1 ? "one solve" : std::to_string(f.solves) + " solves";
  std::string text =
      duration(c.seconds) + " (build " + duration(c.build_seconds) + ", " + solves + " of " + duration(c.solve_seconds);
  if (c.route == Route::inexact_pcg) text += ", " + std::to_string(f.cg_iters) + " iterations";
  return text + ')';
}

}  // namespace

std::string PlanCandidate::why_not() const {
  switch (obstacle) {
    case Obstacle::none:
      return "";
    case Obstacle::border_not_cheap:
      return "the border has no cheap factor";
    case Obstacle::rows_not_fewer:
      return "T >= k: the capacitance form is not smaller than S";
    case Obstacle::operator_border:
      return "the border is an operator: it has no entries to factor";
    case Obstacle::precision:
      return "float32 arithmetic is that of the dense direct route and of inexact_pcg only";
    case Obstacle::factor_wanted:
      return "a factor was asked for, and an iteration has none";
    case Obstacle::budget_too_small:
      return "pcg.max_iterations is below what the certificate is expected to take";
    case Obstacle::memory:
      return "it needs " + format_bytes(peak_bytes) + ", more than memory_limit";
    case Obstacle::machine_memory:
      return "it needs " + format_bytes(peak_bytes) + ", more than four fifths of this machine's memory";
  }
  return "";
}

std::string SolvePlan::profile_name() const { return profile == nullptr ? "" : profile->name; }

std::vector<std::string> SolvePlan::reasons() const {
  if (std::strcmp(backend, "cpu") != 0)
    return {"solved in a batch on the device: everything sent at once, nothing kept"};
  std::vector<std::string> lines;
  const Facts& f = facts;
  const PlanCandidate* own = nullptr;
  for (const PlanCandidate& c : candidates()) {
    if (same(*this, c)) own = &c;
  }
  const std::string predicted = own == nullptr ? "" : cost_of(*own, f);
  if (f.width_cut) {
    lines.push_back(std::string("route_rule='width_cut': k = ") + std::to_string(f.k) +
                    (route == Route::inexact_pcg ? " > " : " <= ") + std::to_string(policy::kWidthCut));
  } else if (f.mode == Mode::automatic) {
    lines.push_back(
        "predicted " + predicted +
        (count > 1 ? ": the least of the routes that can carry it (exact ones win within 10 %)" : ": the only route"));
  } else if (f.mode == Mode::sqrt_ba) {
    lines.push_back("sqrt_ba was asked for: the arithmetic of direct under its own name; predicted " + predicted);
  } else {
    lines.push_back(std::string(to_string(f.mode)) + " was asked for; predicted " + predicted);
  }
  for (const PlanCandidate& c : candidates()) {
    if (same(*this, c)) continue;
    lines.push_back("not " + name_of(c) + ": " + (c.feasible() ? "predicted " + cost_of(c, f) : c.why_not()));
  }

  const bool direct = route == Route::direct || route == Route::sqrt_ba;
  if (f.k == 0) {
    lines.push_back("no border: the rows are solved one by one");
  } else if (f.total_dim == 0) {
    lines.push_back("no rows: the border is solved alone");
  } else if (materialize) {
    lines.push_back(std::string("the ") + f.cross_form + " cross block is expanded to a dense slab of " +
                    format_bytes(f.total_dim * f.k * 8));
  } else if (std::strcmp(f.cross_form, "dense") != 0) {
    lines.push_back(std::string("the ") + f.cross_form +
                    " cross block keeps its form: " + std::to_string(f.stored_entries) + " numbers, " +
                    format_number(static_cast<double>(f.total_dim) * static_cast<double>(f.k)) + " as a dense slab");
  } else if (direct && thin_border) {
    lines.push_back("thin border (k = " + std::to_string(f.k) +
                    "): rows are whitened and reduced in chunks that stay in the cache");
  } else if (direct) {
    lines.push_back("wide border: one symmetric rank-T update on the stacked whitened rows");
  }
  if (sparse_schur) lines.push_back("S is block-sparse: it has a sparse Cholesky factor");
  if (low_rank) {
    lines.push_back("T < k (T = " + std::to_string(f.total_dim) + ", k = " + std::to_string(f.k) +
                    "): the capacitance form is smaller than the Schur complement");
  }
  lines.push_back(std::string("on the CPU (") + f.device_reason + "), by the profile '" + profile_name() + "'");
  return lines;
}

}  // namespace arrowschur
