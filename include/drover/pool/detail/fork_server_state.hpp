#pragma once

#include <algorithm>
#include <utility>

#include <drover/pool/options.hpp>
#include <drover/pool/supervisor.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Decides how the next worker of a pool with Launch::fork comes to be, and when its fork server is started. Pure: the
/// caller brings the time.
class ForkServerState {
 public:
  enum class State {
    none,      // it is started with the next worker
    starting,  // workers wait for it
    ready,
    resting,  // it has ended too often: workers are executed for a while
    unfit     // its program can never be copied
  };
  enum class Launch { fork, wait, execute };
  struct Decision {
    Launch launch{};
    bool start_server = false;
    friend bool operator==(const Decision&, const Decision&) = default;
  };

  explicit ForkServerState(RestartPolicy policy)
      : within_(policy.within), max_backoff_(policy.max_backoff), supervisor_(policy) {}

  State state() const noexcept { return state_; }

  /// A worker is to be started.
  Decision worker_due(Clock::time_point now) noexcept {
    if (state_ == State::resting && now >= rests_until_) state_ = State::none;
    switch (state_) {
      case State::none: state_ = State::starting; return {Launch::wait, true};
      case State::starting: return {Launch::wait};
      case State::ready: return {Launch::fork};
      case State::resting:
      case State::unfit: break;
    }
    return {Launch::execute};
  }
  /// The server is ready.
  void server_ready(Clock::time_point now) noexcept {
    if (state_ != State::starting) return;
    state_ = State::ready;
    ready_since_ = now;
  }
  /// Its start has failed, or it has exited. False if that is known.
  bool server_ended(Clock::time_point now) {
    if (state_ != State::starting && state_ != State::ready) return false;
    const bool was_ready = state_ == State::ready;
    if (was_ready && now - ready_since_ >= within_) (void)supervisor_.proved_itself();
    const Duration delay = supervisor_.died(now, {}).delay;
    rests_until_ = now + delay;
    // One that has worked is started again at once, unless that happens often.
    state_ = was_ready && !supervisor_.gave_up() ? State::none : State::resting;
    return true;
  }
  /// It has not answered in time, or not as it should. The start that waited for it has blocked a thread, so workers
  /// are executed for RestartPolicy::max_backoff. False if that is known.
  bool server_hung(Clock::time_point now) {
    if (!server_ended(now)) return false;
    state_ = State::resting;
    rests_until_ = std::max(rests_until_, now + max_backoff_);
    return true;
  }
  /// It has said that it can never make copies. False if that is known.
  bool server_unfit() noexcept { return std::exchange(state_, State::unfit) != State::unfit; }

 private:
  Duration within_, max_backoff_;
  Supervisor supervisor_;
  State state_ = State::none;
  Clock::time_point ready_since_{}, rests_until_{};
};

}}}  // namespace drover::v1::detail
