// While one of these exists for a flag, no other one can: what another thread does at the same time is refused.
#pragma once

#include <atomic>
#include <stdexcept>
#include <string>

namespace rmsprop_fast {

class InUse {
 public:
  InUse(std::atomic<bool>& flag, const char* name) : flag_(flag) {
    if (flag.exchange(true))
      throw std::runtime_error(name + std::string(": expected one that is not in use, got one that another step is "
                                                  "working on, or was when this process was forked"));
  }
  ~InUse() { flag_ = false; }
  InUse(const InUse&) = delete;
  InUse& operator=(const InUse&) = delete;

 private:
  std::atomic<bool>& flag_;
};

}  // namespace rmsprop_fast
