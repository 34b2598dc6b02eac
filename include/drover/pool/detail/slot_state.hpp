#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include <drover/pool/supervisor.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// One slot of a pool: which workers it has, and when others are started in it. Pure: no I/O, and the caller brings the
/// time. PoolSlots carries the actions out.
///
/// A slot has at most three kinds of workers at a time:
///
///     worker        gets the slot's calls once it is ready.
///     successor     is started beside it for a planned replacement. It becomes the worker when it is ready.
///     predecessors  were the worker before. They drain, and take no more calls.
///
/// A worker that exits is replaced after the delay that the Supervisor decides. A worker that drains by itself is
/// replaced at once, but only one such predecessor may run: a worker that says that it drains, and does not, must not
/// make the pool grow without bound. A planned replacement waits for its turn, since the pool makes one at a time. Its
/// turn ends when the predecessor has exited.
class SlotState {
 public:
  enum class Worker : std::uint8_t {
    none,      ///< another one is about to be started
    starting,  ///< not ready yet
    ready,     ///< gets calls
    leaving    ///< drains by itself
  };
  enum class Successor : std::uint8_t { none, waiting /* for its turn */, starting };

  struct Actions {
    std::optional<Duration> start_in{};    ///< start a worker in the slot after that time
    bool ask_for_turn = false;             ///< of a planned replacement
    bool start_successor = false;          ///< the turn has come
    bool promote = false;                  ///< the successor becomes the worker
    bool retire = false;                   ///< and the worker before it gets STOP
    bool withdraw = false;                 ///< it does not wait for its turn any more
    bool end_turn = false;                 ///< the planned replacement is over
    bool drop_successor = false;           ///< stop it
    std::optional<Duration> replace_in{};  ///< call replace() once more after that time
    bool prove = false;                    ///< call lived() when RestartPolicy::within has passed
    bool gave_up = false;                  ///< events
    bool recovered = false;
    bool restarting = false;

    friend bool operator==(const Actions&, const Actions&) = default;
  };

  explicit SlotState(RestartPolicy policy) : policy_(policy), supervisor_(policy) {}

  // ---- the worker ---------------------------------------------------------------------------------------------------

  /// A worker was put into the slot, and is about to be spawned.
  void launched() noexcept {
    if (!awaits_start()) return;
    if (worker_ == Worker::leaving) ++leavers_;
    worker_ = Worker::starting;
    start_is_due_ = false;
  }
  Actions worker_ready() noexcept {
    if (worker_ != Worker::starting) return {};
    worker_ = Worker::ready;
    return {.prove = supervisor_.gave_up()};
  }
  /// It has answered its first call.
  Actions worker_answered() noexcept { return proved(); }
  /// See Actions::prove.
  Actions lived() noexcept { return proved(); }
  /// It drains by itself. `served`: it has answered a call.
  Actions worker_leaves(Clock::time_point now, bool served) {
    if (worker_ != Worker::ready) return {};
    worker_ = Worker::leaving;
    leaver_served_ = served;
    Actions actions = withdraw();
    replace_leaver(actions, now);
    return actions;
  }
  Actions worker_exited(Clock::time_point now, Supervisor::Death death) {
    if (worker_ == Worker::none) return {};
    worker_ = Worker::none;
    if (std::exchange(start_is_due_, false)) return {};
    Actions actions = withdraw();
    schedule(actions, now, death);
    return actions;
  }
  /// No process could be spawned, before or after launched().
  Actions start_failed(Clock::time_point now) {
    if (worker_ != Worker::starting && !awaits_start()) return {};
    Actions actions = withdraw();
    if (worker_ == Worker::starting) worker_ = Worker::none;
    schedule(actions, now, {});
    return actions;
  }

  // ---- a planned replacement ----------------------------------------------------------------------------------------

  /// Another worker is wanted here, while this one goes on. `repeat`: for as long as it takes: if the successor does
  /// not get ready, another one is started after a while. Otherwise it is wanted once; without a worker the next start
  /// comes at once.
  Actions replace(bool repeat) noexcept {
    if (closed_ || worker_ == Worker::leaving) return {};
    if (successor_ != Successor::none) {
      repeats_ = repeats_ || repeat;
      return {};
    }
    if (worker_ == Worker::none) return repeat ? Actions{} : Actions{.start_in = Duration::zero()};
    successor_ = Successor::waiting;
    repeats_ = repeat;
    return {.ask_for_turn = true};
  }
  Actions turn_came() noexcept {
    if (successor_ != Successor::waiting) return {.end_turn = true};
    successor_ = Successor::starting;
    return {.start_successor = true};
  }
  Actions successor_ready() noexcept {
    if (successor_ != Successor::starting || closed_) return {};
    successor_ = Successor::none;
    failures_ = 0;
    Actions actions{.promote = true, .prove = supervisor_.gave_up()};
    actions.retire = worker_ != Worker::none;
    actions.end_turn = !actions.retire;
    worker_ = Worker::ready;
    return actions;
  }
  /// Before it was ready.
  Actions successor_exited(Clock::time_point now) {
    if (successor_ != Successor::starting) return {};
    successor_ = Successor::none;
    Actions actions{.end_turn = true};
    if (worker_ == Worker::none)
      schedule(actions, now, {});
    else if (worker_ == Worker::leaving)
      replace_leaver(actions, now);
    else if (repeats_ && !closed_)
      actions.replace_in = next_try();
    return actions;
  }
  /// Who wanted the replacement once does not want it any more.
  Actions keep_worker() noexcept {
    if (successor_ != Successor::starting) return repeats_ ? Actions{} : withdraw();
    return {.drop_successor = worker_ != Worker::none};
  }
  /// `retired`: see Actions::retire. Otherwise it drained by itself.
  Actions predecessor_exited(Clock::time_point now, bool retired) {
    Actions actions{.end_turn = retired};
    if (!retired && leavers_ != 0) --leavers_;
    replace_leaver(actions, now);
    return actions;
  }

  // ---- the slot -----------------------------------------------------------------------------------------------------

  /// The slot is to be removed: its workers stop, and no other one is started.
  Actions close() noexcept {
    if (std::exchange(closed_, true)) return {};
    Actions actions = withdraw();
    actions.drop_successor = successor_ == Successor::starting;
    actions.retire = worker_ != Worker::none;
    return actions;
  }

  /// A worker may be put into the slot.
  bool awaits_start() const noexcept {
    if (closed_ || successor_ == Successor::starting) return false;
    return worker_ == Worker::none || start_is_due_;
  }
  Worker worker() const noexcept { return worker_; }
  Successor successor() const noexcept { return successor_; }
  bool closed() const noexcept { return closed_; }
  /// The slot is given up, and has no worker that gets calls.
  bool down() const noexcept {
    return supervisor_.gave_up() && (worker_ == Worker::none || worker_ == Worker::starting);
  }

 private:
  Actions proved() noexcept {
    if (worker_ != Worker::ready && worker_ != Worker::leaving) return {};
    return {.recovered = supervisor_.proved_itself()};
  }
  /// The worker is about to be replaced anyway.
  Actions withdraw() noexcept {
    if (successor_ != Successor::waiting) return {};
    successor_ = Successor::none;
    return {.withdraw = true};
  }
  void schedule(Actions& actions, Clock::time_point now, Supervisor::Death death) {
    const Supervisor::Decision decision = supervisor_.died(now, death);
    actions.gave_up = decision.gives_up;
    if (closed_ || successor_ == Successor::starting) return;  // which takes the place
    actions.restarting = true;
    actions.start_in = decision.delay;
  }
  /// When a planned replacement is tried again: as late as a restart, but at least a second later, as there is no
  /// hurry.
  Duration next_try() noexcept {
    Duration delay = std::max<Duration>(policy_.backoff, std::chrono::seconds(1));
    const Duration longest = std::max(policy_.max_backoff, delay);
    for (unsigned i = 0; i < failures_ && delay < longest; ++i) delay = delay > longest / 2 ? longest : delay * 2;
    ++failures_;
    return delay;
  }
  /// If the worker leaves.
  void replace_leaver(Actions& actions, Clock::time_point now) {
    if (worker_ != Worker::leaving || start_is_due_ || closed_ || supervisor_.gave_up() || leavers_ != 0) return;
    if (successor_ == Successor::starting) return;
    start_is_due_ = true;
    schedule(actions, now, {.served = leaver_served_, .graceful = true});
  }

  RestartPolicy policy_;
  Supervisor supervisor_;
  Worker worker_ = Worker::none;
  Successor successor_ = Successor::none;
  std::size_t leavers_ = 0;    // predecessors that drain by themselves
  bool start_is_due_ = false;  // although the worker still leaves
  bool leaver_served_ = false;
  bool repeats_ = false;   // the planned replacement
  unsigned failures_ = 0;  // of successors in a row
  bool closed_ = false;
};

}}}  // namespace drover::v1::detail
