#pragma once

#include <atomic>
#include <cstdlib>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>

#include <drover/os/fd.hpp>
#include <drover/wire/protocol.hpp>

/// What this process is: both sides of the process boundary have to know.
namespace drover { inline namespace v1 { namespace detail {

enum class Role {
  unknown,  // nobody has asked yet
  host,
  booting,  // a worker that has not reached serve()
  serving   // a worker that has; from then on it may have workers of its own
};

/// Set by in_worker() and serve().
inline std::atomic<Role> this_process{Role::unknown};

/// What the environment says of this process.
struct Calling {
  bool as_worker = false;  ///< the variable is set
  std::optional<WorkerEnvironment>
      environment;    ///< what it holds, if all of it is as it was for the process that wrote it
  std::string fault;  ///< else what is missing
};

/// A variable that is set but does not fit is a worker that something has come between: a wrapper that closes
/// descriptors, say. Such a process must not take itself for the parent program, which starts workers.
inline Calling calling_of_this_process() {
  Calling calling;
  const char* const text = std::getenv(environment_name);
  if (text == nullptr) return calling;
  calling.as_worker = true;
  std::optional<WorkerEnvironment> environment = WorkerEnvironment::parse(text);
  if (!environment || environment->control.fd < 0 || environment->data.fd < 0) {
    calling.fault = "its value is malformed";
    return calling;
  }
  const std::pair<const InheritedFd*, const char*> descriptors[] = {{&environment->control, "the control socket"},
                                                                    {&environment->data, "the data socket"},
                                                                    {&environment->parent, "the parent's pidfd"},
                                                                    {&environment->lock, "the parent's lock"}};
  for (const auto& [inherited, what] : descriptors) {
    if (inherited->fd < 0) continue;
    const std::optional<FdIdentity> found = identity_of(inherited->fd);
    if (found && found->device == inherited->device && found->inode == inherited->inode) continue;
    calling.fault =
        "descriptor " + std::to_string(inherited->fd) + ", " + what + (found ? ", is another file" : ", is not open");
    return calling;
  }
  calling.environment = std::move(environment);
  return calling;
}

/// This process was started as a worker and has not reached serve(), whether or not it has asked in_worker(). It must
/// not start workers: a main() that never serves would multiply without end.
inline bool booting_as_worker() {
  const Role role = this_process.load();
  return role == Role::unknown ? std::getenv(environment_name) != nullptr : role == Role::booting;
}

/// This process was started as a worker.
inline bool started_as_worker() { return booting_as_worker() || this_process.load() == Role::serving; }

}}}  // namespace drover::v1::detail
