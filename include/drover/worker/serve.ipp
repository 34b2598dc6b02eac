#pragma once

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unistd.h>
#include <utility>

#include <drover/detail/keep_loaded.hpp>
#include <drover/os/detail/spawn_mark.hpp>
#include <drover/wire/detail/process_role.hpp>
#include <drover/worker/detail/call_loop.hpp>
#include <drover/worker/detail/control_thread.hpp>
#include <drover/worker/detail/fork_server.hpp>
#include <drover/worker/detail/hello.hpp>
#include <drover/worker/detail/parent_death.hpp>
#include <drover/worker/detail/run_routine.hpp>
#include <drover/worker/detail/shared_state.hpp>
#include <drover/worker/detail/signals.hpp>
#include <drover/worker/serve.hpp>

namespace drover { inline namespace v1 {
namespace detail {

/// A worker that cannot work exits here: an exception might be caught, and main() would continue as the parent program.
[[noreturn]] inline void leave_as_broken_worker(int code, const std::string& why) noexcept {
  const std::string text = "drover: this process was started as a worker, but " + why + "\n";
  std::fputs(text.c_str(), stderr);
  std::fflush(stderr);
  ::_exit(code);
}

/// Throws std::system_error if the process is out of descriptors or threads.
inline void arm_worker(const WorkerEnvironment& environment) {
  for (const InheritedFd* inherited : {&environment.control, &environment.data, &environment.parent, &environment.lock})
    if (inherited->fd >= 0) set_cloexec(inherited->fd, true);
  set_nonblocking(environment.data.fd);
  keep_library_loaded();
  clear_spawn_mark();
  WorkerState& state = *new WorkerState(environment);  // never destroyed
  state_of_this_worker.store(&state);
  wake_when_parent_dies();
  ControlThread::start(state);
  if (!state.parent && state.lock) watch_lock(state);
  install_worker_signals();
}

[[noreturn]] inline void leave_without_descriptors(const StartRole& start) noexcept {
  leave_as_broken_worker(exit_without_descriptors,
                         "what its parent passed by " + std::string(environment_name) +
                             " did not reach it: " + start.fault +
                             ". Does its command close descriptors above 2, or clear the environment, as wrappers do?");
}

/// An on_start() or what prepares the program has thrown: notifies the parent. If that is impossible, the exit code has
/// to do.
inline void report_failed_start(int control, std::string_view prefix = {}) {
  FrameBody body;
  try {
    encode_type_and_text(body, max_control_body, prefix);
    send_first(control, FrameType::start_failed, body.buffer().view());
  } catch (const std::exception&) {
  }
}

inline void prepare_worker(const std::function<void()>& prepare, int control) {
  try {
    if (prepare) prepare();
  } catch (...) {
    report_failed_start(control, from_prepare);
    std::fflush(nullptr);
    ::_exit(exit_start_failed);
  }
}

inline bool become_worker(const std::function<void()>& prepare) {
  StartRole start = start_role_of_this_process();
  if (!start.as_worker) {
    this_process.store(Role::parent);
    return false;
  }
  this_process.store(Role::booting);
  if (!start.environment) leave_without_descriptors(start);
  const bool is_copy = start.environment->forks.fd >= 0;
  try {
    if (is_copy) {
      const int control = start.environment->control.fd;
      ForkServerLoop(*start.environment).run([&] { prepare_worker(prepare, control); });
      start = start_role_of_this_process();
      if (!start.environment) leave_without_descriptors(start);
    }
    arm_worker(*start.environment);
  } catch (const std::exception& error) {
    leave_as_broken_worker(exit_without_resources, std::string("it cannot begin: ") + error.what());
  }
  // A process that this one starts must not take itself for a worker.
  ::unsetenv(environment_name);
  if (!is_copy) prepare_worker(prepare, start.environment->control.fd);
  return true;
}

/// However serve() ends, the control thread bounds the time that follows.
struct LeaveServe {
  WorkerState& state;
  ~LeaveServe() {
    state.phase.store(WorkerState::Phase::left);
    if ((state.flags.fetch_or(WorkerFlag::finished) & WorkerFlag::finished) == 0) state.control_wakeup.notify();
  }
};

}  // namespace detail

DROVER_INLINE bool in_worker(const std::function<void()>& prepare) {
  static const bool worker = detail::become_worker(prepare);
  return worker;
}
DROVER_INLINE bool in_worker() { return in_worker({}); }

DROVER_INLINE int serve(const Routines& routines) {
  if (!in_worker()) throw std::logic_error("serve() in a process that was not started as a worker");
  if (detail::this_process.exchange(detail::Role::serving) != detail::Role::booting)
    throw std::logic_error("serve() may be called once");
  detail::WorkerState& state = *detail::state_of_this_worker.load();
  const detail::LeaveServe leave{state};
  std::optional<detail::CallLoop> service;
  try {
    service.emplace(state, detail::RoutinesAccess::table(routines), detail::RoutinesAccess::hooks(routines));
  } catch (const std::exception& error) {
    detail::leave_as_broken_worker(detail::exit_without_resources, std::string("it cannot begin: ") + error.what());
  }
  try {
    service->prepare();
  } catch (...) {
    detail::report_failed_start(state.control.get());
    return detail::exit_start_failed;
  }
  try {
    service->begin();
  } catch (const std::exception& error) {
    detail::leave_as_broken_worker(detail::exit_without_resources, std::string("it cannot begin: ") + error.what());
  }
  service->run();
  return 0;
}

}}  // namespace drover::v1
