#pragma once

#include <cstddef>

namespace drover { inline namespace v1 { namespace detail {

/// Learns that calls wait. Called with the dispatcher's mutex held.
class QueueWatcher {
 public:
  /// No worker can take a call now; it was put into the queue, where `waiting` calls are by now.
  virtual void call_waits(std::size_t waiting) noexcept = 0;

 protected:
  ~QueueWatcher() = default;
};

}}}  // namespace drover::v1::detail
