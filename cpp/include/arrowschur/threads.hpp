// Threads and interruption.
//
// The library has one small pool of its own (why not OpenMP: its runtime is opaque to the thread sanitizer, does not
// survive fork(), and a second OpenMP runtime in the process oversubscribes). BLAS runs single-threaded inside the
// pool's tasks. Results do not depend on the number of threads.
#pragma once

#include "arrowschur/types.hpp"

namespace arrowschur {

// Default: OMP_NUM_THREADS if set and valid, else the number of CPUs this process may run on.
int get_num_threads() noexcept;
void set_num_threads(int n);  // n >= 1, else InvalidArgument

// Called from the calling thread between chunks of work, at most every few milliseconds. Returning true ends the call
// with Interrupted. Per thread, nested scopes restore the outer one.
class InterruptScope {
 public:
  using Callback = bool (*)(void* context);
  InterruptScope(Callback callback, void* context) noexcept;
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

 private:
  Callback outer_;
  void* outer_context_;
};

// Scratch memory that this thread keeps between calls, up to `workspace_cache_bytes` (default 512 MB).
void clear_workspaces();
Index workspace_cache_bytes() noexcept;
void set_workspace_cache_bytes(Index bytes);

}  // namespace arrowschur
