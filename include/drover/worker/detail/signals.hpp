#pragma once

#include <cerrno>
#include <initializer_list>
#include <signal.h>
#include <unistd.h>

#include <drover/worker/detail/shared_state.hpp>

/// SIGTERM, SIGINT and SIGHUP in a worker. SIGHUP is included because the kernel sends it, followed by SIGCONT, to a
/// suspended process whose group has been orphaned by its parent's death. It counts as SIGTERM.
namespace drover { inline namespace v1 { namespace detail {

/// Only notifies the control thread. Until CallLoop::begin(), so in on_start() too, and in a forked copy of the worker
/// there is nothing to drain, and the signal has its default effect.
inline void on_worker_signal(int signo) noexcept {
  const int saved = errno;
  WorkerState* const state = state_of_this_worker.load();
  if (state == nullptr || ::getpid() != state->pid || state->phase.load() == WorkerState::Phase::booting) {
    struct sigaction by_default{};
    by_default.sa_handler = SIG_DFL;
    ::sigaction(signo, &by_default, nullptr);
    ::raise(signo);  // blocked until this handler returns
  } else {
    (signo == SIGINT ? state->interrupts : state->terminations).fetch_add(1);
    state->control_wakeup.notify();
  }
  errno = saved;
}

/// Dispositions that main() has changed stay as they are.
inline void install_worker_signals() noexcept {
  for (const int signo : {SIGTERM, SIGINT, SIGHUP}) {
    struct sigaction action{};
    if (::sigaction(signo, nullptr, &action) != 0 || action.sa_handler != SIG_DFL) continue;
    action = {};
    action.sa_handler = on_worker_signal;
    action.sa_flags = SA_RESTART;
    ::sigfillset(&action.sa_mask);
    ::sigaction(signo, &action, nullptr);
  }
}

}}}  // namespace drover::v1::detail
