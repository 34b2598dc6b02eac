#pragma once

#include <optional>
#include <sys/types.h>

namespace drover { inline namespace v1 { namespace detail {

class SpawnRequest;

/// Starts processes in another way than posix_spawn(3) does.
class ProcessSource {
 public:
  ProcessSource() = default;
  ProcessSource(const ProcessSource&) = delete;
  ProcessSource& operator=(const ProcessSource&) = delete;
  virtual ~ProcessSource() = default;

  /// Returns the id of a child of this program. It leads a process group of its own, and has the descriptors, the
  /// environment and the working directory of the request. Empty if it has not been started: then it is to be spawned.
  /// *Threads:* any.
  virtual std::optional<pid_t> start(SpawnRequest& request) noexcept = 0;
};

}}}  // namespace drover::v1::detail
