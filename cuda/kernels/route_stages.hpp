// Atoms for rows as a sequence of kernels and library calls: part of stages.hpp.
#pragma once

#include "calls.hpp"
#include "route_score.hpp"

namespace arrowschur::kernels {

template <class Queue>
int route(Queue& queue, const ArrowschurDeviceAtoms& atoms, std::int64_t rows, const float* x, int wanted,
          std::uint32_t* index, double* score, std::int64_t* rescanned, double* workspace) {
  const RouteSpace space = route_space(atoms.count, rows, wanted);
  auto* const scores = reinterpret_cast<float*>(workspace);
  Calls calls(queue);
  for (std::int64_t row = 0; row < rows; row += space.rows) {
    RouteArgs args{};
    args.rows = smaller(space.rows, rows - row), args.atoms = atoms.count, args.width = atoms.width;
    args.wanted = wanted, args.d = atoms.atoms, args.x = x + row * atoms.width;
    args.lists = reinterpret_cast<std::uint64_t*>(workspace + space.lists);
    args.states = reinterpret_cast<RouteRow*>(workspace + space.states);
    args.index = index + row * wanted, args.score = score + row * wanted, args.rescanned = rescanned;
    args.pitch = space.atoms, args.scores = scores;
    calls.template run<RouteBegin>(args);
    for (; !args.all_are_candidates() && args.first < args.atoms; args.first += args.count) {
      args.count = smaller(space.atoms, args.atoms - args.first);
      calls.call([&](Queue& q) {
        return q.scores(args.count, args.rows, args.width, args.d + args.first * args.width, args.x, scores,
                        args.pitch);
      });
      calls.template run<RouteFold>(args);
    }
    calls.template run<RouteScore>(args);
    calls.template run<RouteScan>(args);
  }
  return calls.status();
}

}  // namespace arrowschur::kernels
