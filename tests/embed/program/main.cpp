// Solves a system whose solution is known, then a larger one that goes through BLAS, and prints what it used.
#include <arrowschur/arrowschur.hpp>
#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <vector>

namespace {

void expect(bool condition, const char* what) {
  if (!condition) throw std::runtime_error(what);
}

// Two rows of size 1, border of width 1:  H = [2 . 1; . 3 1; 1 1 4],  x = (1, 1, -1),  g = -Hx.
void known_answer() {
  const std::vector<double> h_tt{2, 3}, h_tb{1, 1}, h_bb{4}, g_t{-1, -2}, g_beta{2};
  const auto system =
      arrowschur::ArrowSystem::uniform(2, 1, 1, h_tt.data(), h_tb.data(), h_bb.data(), g_t.data(), g_beta.data());

  const arrowschur::NewtonStep step = arrowschur::newton_step(system);

  expect(std::abs(step.delta_t[0] - 1) < 1e-14 && std::abs(step.delta_t[1] - 1) < 1e-14, "delta_t is wrong");
  expect(std::abs(step.delta_beta[0] + 1) < 1e-14, "delta_beta is wrong");
}

void wide_border() {
  const auto data =
      arrowschur::fixtures::coupled_fixture(120, 40, 300, 1, 0.9, arrowschur::fixtures::BorderKind::dense);
  const arrowschur::NewtonStep step = arrowschur::newton_step(data.system());
  expect(step.diagnostics.backward_error < 1e-13, "the certificate is too large");
}

void errors_cross_the_library_boundary() {
  const std::vector<double> one{1}, minus_one{-1}, zero{0};
  const auto system =
      arrowschur::ArrowSystem::uniform(1, 1, 1, minus_one.data(), zero.data(), one.data(), one.data(), one.data());
  arrowschur::SolveOptions options;
  options.row_lift = arrowschur::RowLift::never;
  try {
    arrowschur::newton_step(system, {}, options);
  } catch (const arrowschur::RowFactorError& error) {
    expect(error.facts.row == 0, "the failing row is not named");
    return;
  }
  expect(false, "an indefinite row was accepted");
}

}  // namespace

int main() {
  try {
    known_answer();
    wide_border();
    errors_cross_the_library_boundary();
    std::printf("version=%s\n", arrowschur::version());
    for (const auto& [key, value] : arrowschur::build_info()) std::printf("%s=%s\n", key.c_str(), value.c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
