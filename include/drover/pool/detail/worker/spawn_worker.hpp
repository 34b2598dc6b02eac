#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <sys/socket.h>
#include <tuple>
#include <unistd.h>
#include <utility>

#include <drover/os/credentials.hpp>
#include <drover/os/detail/child_process.hpp>
#include <drover/os/detail/child_syscalls.hpp>
#include <drover/os/detail/process_source.hpp>
#include <drover/os/fd.hpp>
#include <drover/os/life_lock.hpp>
#include <drover/pool/options.hpp>
#include <drover/wire/detail/process_role.hpp>
#include <drover/wire/protocol.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// A worker process that has just been spawned, and this side's ends of its sockets.
struct SpawnedWorker {
  std::shared_ptr<ChildProcess> child;
  UniqueFd control, data;
  UniqueFd forks;  // of a fork server
};

/// How its process comes to be, beside its options.
struct WorkerOrigin {
  ProcessSource* source = nullptr;  // null: it is spawned
  bool is_fork_server = false;
};

inline InheritedFd inherited(int number, int fd) {
  const auto identity = identity_of(fd);
  if (!identity) throw_errno("cannot identify a descriptor of a worker");
  return {.fd = number, .device = identity->device, .inode = identity->inode};
}

/// What is in flight at a time is what one wake-up moves. The kernel takes as much of it as its administrator allows
/// (net.session.wmem_max) and counts memory only when it is used; socket(7).
inline void widen_send_buffer(int fd) noexcept {
  const int size = 1 << 20;
  ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
}

/// Spawns a worker with its sockets and its parent's pidfd as descriptors 3, 4 and 5, named in its environment. A fork
/// server has the socket for its requests as descriptor 6.
inline SpawnedWorker spawn_worker(const WorkerOptions& options, std::size_t slot, WorkerOrigin origin,
                                  std::function<void(const ChildEvent&)> observer) {
  if (booting_as_worker())
    throw std::logic_error(
        "this process is itself a worker that has not reached drover::serve() yet: call drover::in_worker() at the "
        "start "
        "of main() and return drover::serve(routines) if it is true; otherwise workers would start workers without "
        "end");
  auto [control, control_of_worker] = socket_pair();
  auto [data, data_of_worker] = socket_pair();
  enable_credentials(control.get());
  // Before the worker can send: what is sent before an end refuses descriptors stays in it.
  for (const UniqueFd* end : {&control, &data}) refuse_descriptors(end->get());
  widen_send_buffer(data.get());
  widen_send_buffer(data_of_worker.get());

  WorkerEnvironment environment;
  environment.control = inherited(3, control_of_worker.get());
  environment.data = inherited(4, data_of_worker.get());
  environment.spin_ns = std::chrono::nanoseconds(options.spin).count();
  environment.shutdown_grace_ns = std::chrono::nanoseconds(options.shutdown_grace).count();
  environment.max_message_size = options.max_message_size;
  environment.on_terminate = options.on_terminate;
  if (options.stall) environment.stall_ns = std::chrono::nanoseconds(*options.stall).count();
  environment.worker = {
      .slot = slot, .name = options.name.value(), .tags = options.tags.value(), .extra = options.extra.value()};

  SpawnOptions extras;
  extras.descriptors = {control_of_worker.get(), data_of_worker.get()};
  const UniqueFd self = open_pidfd(::getpid());
  if (self) {
    environment.parent = inherited(5, self.get());
    extras.descriptors.push_back(self.get());
  } else {
    const int lock = life_lock();
    environment.lock = inherited(5, lock);
    extras.descriptors.push_back(lock);
  }
  UniqueFd forks, forks_of_worker;
  if (origin.is_fork_server) {
    std::tie(forks, forks_of_worker) = socket_pair(SOCK_SEQPACKET);
    refuse_descriptors(forks.get());
    environment.forks = inherited(6, forks_of_worker.get());
    extras.descriptors.push_back(forks_of_worker.get());
  }
  extras.env.emplace_back(environment_name, environment.to_string());
  if (slot != no_slot) extras.env.emplace_back(slot_variable, std::to_string(slot));
  extras.observer = std::move(observer);
  extras.term_grace = options.term_grace;
  extras.cut_off_code = exit_cut_off;
  extras.is_worker = true;
  extras.source = origin.source;
  extras.makes_siblings = origin.is_fork_server;
  extras.observes_stops = static_cast<bool>(options.on_event.value());
  return {.child = ChildProcess::spawn(options.command, std::move(extras)),
          .control = std::move(control),
          .data = std::move(data),
          .forks = std::move(forks)};
}

}}}  // namespace drover::v1::detail
