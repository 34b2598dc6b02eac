#pragma once

#include <cstdlib>
#include <stdexcept>
#include <utility>

#include <drover/detail/pin.hpp>
#include <drover/wire/detail/role.hpp>
#include <drover/worker/detail/control.hpp>
#include <drover/worker/detail/parent.hpp>
#include <drover/worker/detail/service.hpp>
#include <drover/worker/detail/signals.hpp>
#include <drover/worker/detail/state.hpp>
#include <drover/worker/serve.hpp>

namespace drover::inline v1 {
namespace detail {

inline bool become_worker() {
  auto environment = live_worker_environment();
  if (!environment) {
    this_process.store(Role::host);
    return false;
  }
  this_process.store(Role::booting);
  for (const InheritedFd* inherited :
       {&environment->control, &environment->data, &environment->parent, &environment->lock})
    if (inherited->fd >= 0) set_cloexec(inherited->fd, true);
  set_nonblocking(environment->data.fd);
  pin_this_object();
  WorkerState& state = *new WorkerState(std::move(*environment));  // never destroyed
  this_worker.store(&state);
  wake_when_parent_dies();
  ControlThread::start(state);
  if (!state.parent && state.lock) watch_lock(state);
  install_worker_signals();
  return true;
}

/// However serve() is left, the control thread bounds what follows.
struct LeaveServe {
  WorkerState& state;
  ~LeaveServe() {
    state.phase.store(WorkerState::Phase::left);
    if ((state.orders.fetch_or(Order::finished) & Order::finished) == 0) state.control_bell.ring();
  }
};

}  // namespace detail

DROVER_INLINE bool in_worker() {
  static const bool worker = detail::become_worker();
  return worker;
}

DROVER_INLINE int serve(const Routines& routines) {
  if (!in_worker()) throw std::logic_error("serve() in a process that was not started as a worker");
  if (detail::this_process.exchange(detail::Role::serving) != detail::Role::booting)
    throw std::logic_error("serve() may be called once");
  ::unsetenv(detail::environment_name);
  detail::WorkerState& state = *detail::this_worker.load();
  const detail::LeaveServe leave{state};
  detail::WorkerService service(state, detail::RoutinesAccess::table(routines));
  service.run();
  return 0;
}

}  // namespace drover::inline v1
