// The search for atoms on a device: rows go up, the winners of each row come back, 12 bytes each, and codes are made of them
// as they are of those that the CPU finds. Equal supports and scores to the bit (device_api.h, route), so equal codes.
//
// The decoder is sent once and stays. Rows go through two lanes by turns: while one is on the device, what the other has
// found is coded here.
#pragma once

#include <functional>
#include <memory>

#include "dictionary/router.hpp"

namespace arrowschur::dictionary {

// The atoms of rows first .. first + count - 1 of a block, [count, wanted_atoms], in the order of selection; where a row
// has fewer, a score is 0.
struct FoundAtoms {
  Index first, count;
  const std::uint32_t* index;
  const double* score;
};

// Who looks for atoms. `off` asks for no device. `required` takes one, or throws: DeviceUnavailableError where there is none
// or its memory does not suffice, UnsupportedConfiguration for a router or a number of atoms that it does not take.
// `automatic` takes one where a minibatch has 2^20 scores or more, where the call is large enough to wake a driver (as any
// other plan: policy::consider_device), and where decoder and workspace fit; it goes on with the CPU when something fails
// before the first minibatch, and throws DeviceError from then on.
class DeviceRouter {
 public:
  // Atoms [k, p]; b rows in a minibatch. Throws under `required` what it can know before any work: no device, a router or
  // sizes that a device does not take.
  DeviceRouter(Device mode, Index k, Index p, Index b, const RouteSettings& settings);
  ~DeviceRouter();
  DeviceRouter(const DeviceRouter&) = delete;
  DeviceRouter& operator=(const DeviceRouter&) = delete;

  // Before a call that routes `rows` rows `passes` times: asks for a device, unless there is one already.
  void consider(Index rows, Index passes);
  // This object with the decoder on the device, or null: the CPU. `d` is sent when it is another one than before.
  DeviceRouter* with(const float* d);
  void forget_decoder() noexcept { sent_ = false; }

  // Waits for the device and hands over what it has found, in ascending pieces.
  using Code = std::function<void(const FoundAtoms&)>;
  void route(const RowBlock& x, RouteCounters& counters, const Code& code);
  // Adds what was counted since the last report: bytes and rows scanned whole.
  void add_to(RouteReport& report);

 private:
  struct Resident;
  void take();  // throws DeviceError
  void give_up(const std::string& why);
  bool may_fall_back() const noexcept;

  Device mode_;
  Index k_, p_, b_;
  RouteSettings settings_;
  bool sent_ = false, started_ = false, given_up_ = false;
  std::unique_ptr<Resident> resident_;
};

}  // namespace arrowschur::dictionary
