// Which shapes are supported, and what they take. On the host.
#pragma once

#include "geometry.hpp"

namespace arrowschur::kernels {

// What is wrong with a system; null where nothing is.
inline const char* complaint(const ArrowschurDeviceSystem& s) {
  if (!fits(s.total, s.k, s.n)) return "the shape is larger than the backend's indices";
  if (s.groups < 0 || (s.groups > 0 && s.rows == nullptr)) return "groups without rows";
  std::int64_t n = 0, total = 0;
  for (int group = 0; group < s.groups; ++group) {
    const ArrowschurDeviceRows& rows = s.rows[group];
    if (rows.d < 1 || rows.d > ARROWSCHUR_DEVICE_MAX_DEPTH) return "a depth that has no kernel";
    if (rows.n < 1 || rows.n > s.n) return "a group without rows";
    n += rows.n, total += rows.n * rows.d;
  }
  if (n != s.n || total != s.total) return "the groups are not the rows";
  switch (s.border_form) {
    case ARROWSCHUR_BORDER_DENSE:
      return nullptr;
    case ARROWSCHUR_BORDER_BANDED:
      return s.border_width < 0 ? "a negative bandwidth" : nullptr;
    case ARROWSCHUR_BORDER_BLOCKS:
      return s.border_width < 1 || s.k % s.border_width != 0 ? "border blocks that do not divide the border" : nullptr;
    default:
      return "an unknown form of the border";
  }
}

// What is wrong with a batch, from its entries on the host; null where nothing is.
inline const char* complaint(const ArrowschurDeviceBatch& batch) {
  if (batch.count < 0 || batch.count > kMostBlocks) return "a number of systems that no grid holds";
  if (batch.count > 0 && batch.host_entries == nullptr) return "systems without entries";
  for (std::int64_t i = 0; i < batch.count; ++i) {
    const ArrowschurBatchEntry& e = batch.host_entries[i];
    if (e.d < 1 || e.d > ARROWSCHUR_DEVICE_MAX_DEPTH) return "a depth that has no kernel";
    if (e.k < 0 || e.k > ARROWSCHUR_BATCH_MAX_BORDER) return "a border that is too wide for a batch";
    if (e.n < 0 || e.n > kMostBlocks) return "a system that is too large for a batch";
    if (e.a < 0 || e.b < 0 || e.m < 0 || e.x < 0) return "a negative offset";
  }
  return nullptr;
}

// What is wrong with a dictionary and what is asked of it; null where nothing is.
inline const char* complaint(const ArrowschurDeviceAtoms& atoms, std::int64_t rows, int wanted) {
  constexpr std::int64_t kMost = std::int64_t{1} << 40;  // entries of a matrix
  if (atoms.count < 1 || atoms.count >= 0xffffffff) return "a number of atoms that 32 bits do not count";
  if (atoms.width < 1 || atoms.width > kMost / atoms.count) return "a dictionary larger than the backend's indices";
  if (rows < 0 || rows > kMost / atoms.width) return "more rows than the backend's indices";
  if (wanted < 1 || wanted > ARROWSCHUR_ROUTE_MAX || wanted > atoms.count) return "a number of atoms that no row has";
  return nullptr;
}

// The same for the dual route of a system.
inline const char* dual_complaint(const ArrowschurDeviceSystem& s) {
  if (const char* words = complaint(s)) return words;
  if (s.border_form != ARROWSCHUR_BORDER_BANDED) return "the dual route of a border that is not banded";
  if (s.border_width > ARROWSCHUR_DUAL_MAX_WIDTH) return "the dual route of a band that is too wide";
  if (s.k > std::int64_t{1} << 30) return "a band with more columns than the backend counts";
  return fits(s.total, s.total, s.n) ? nullptr : "the shape is larger than the backend's indices";
}

// Workspace of a system: the kernels' or the border factorization's, an int for its verdict and what the library takes.
inline constexpr std::size_t kInfoBytes = 256;
constexpr std::size_t workspace_bytes(std::int64_t total, std::int64_t k, std::int64_t order,
                                      std::size_t library_bytes) {
  const auto own = static_cast<std::size_t>(workspace_doubles(total, k, order)) * sizeof(double);
  return own > kInfoBytes + library_bytes ? own : kInfoBytes + library_bytes;
}
constexpr std::size_t inverse_bytes(std::int64_t order, bool full) {
  return static_cast<std::size_t>(inverse_doubles(order, full)) * sizeof(double);
}

}  // namespace arrowschur::kernels
