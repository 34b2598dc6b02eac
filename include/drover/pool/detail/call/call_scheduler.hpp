#pragma once

#include <cstddef>
#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <drover/error.hpp>
#include <drover/os/detail/cpu.hpp>
#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/detail/call/call_keys.hpp>
#include <drover/pool/detail/call/call_queue.hpp>
#include <drover/pool/detail/call/calls_ahead.hpp>
#include <drover/pool/detail/call/keyed_calls.hpp>
#include <drover/pool/detail/call/link_chooser.hpp>
#include <drover/pool/detail/call/pinned_calls.hpp>
#include <drover/pool/detail/call/queue_watcher.hpp>
#include <drover/pool/detail/call/waiting_calls.hpp>
#include <drover/pool/detail/worker/data_link.hpp>
#include <drover/wire/body.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Has the queue of a dispatcher, and decides which call is next and which worker gets it. Others carry that out: it
/// sends nothing and ends no call. Guarded by the dispatcher's mutex.
///
/// The *home* of a call is the one worker that may run it: the one that its broadcast is for, or that of its
/// CallOptions::key while that worker takes calls.
class CallScheduler {
 public:
  /// Where a new call goes.
  struct Route {
    DataLink* link = nullptr;      ///< it is sent there. Null: it has to wait
    DataLink* home = nullptr;      ///< it waits for that worker alone. Null: for any
    std::exception_ptr refusal{};  ///< no worker may run it
  };
  /// A call that has left the queue because its turn has come.
  struct Turn {
    std::shared_ptr<Call> call{};  ///< null: there is none
    DataLink* link = nullptr;      ///< it is sent there
    std::exception_ptr failure{};  ///< instead of that: no worker may run it
  };

  explicit CallScheduler(const KeyedCalls& keyed) noexcept : keyed_(keyed) {}
  CallScheduler(const CallScheduler&) = delete;
  CallScheduler& operator=(const CallScheduler&) = delete;

  // ---- workers ------------------------------------------------------------------------------------------------------

  /// Throws std::bad_alloc.
  void add(DataLink& link) {
    pinned_.add(link);
    chooser_.add(link);
  }
  /// Returns the calls that no other worker may run. Others that waited for this one wait for any from now on.
  CallQueue remove(DataLink& link) noexcept {
    chooser_.remove(link);
    return release(pinned_.remove(link));
  }
  /// The link's worker gets no more calls. Calls of a broadcast wait until it has exited. True if others waited, too.
  bool close(DataLink& link) noexcept {
    link.take_calls(false);
    if (link.pinned.empty()) return false;
    CallQueue kept = release(pinned_.take(link));
    while (!kept.empty()) pinned_.push(link, kept.pop());
    return true;
  }
  /// Makes sure that changed() needs no memory after one more call. Throws std::bad_alloc.
  void reserve(const DataLink& link) { chooser_.reserve(link); }
  /// The number of its calls in flight has changed.
  void changed(DataLink& link) noexcept { chooser_.changed(link); }
  /// As few workers as possible get calls, so that the others may go.
  void use_few(bool on) noexcept { chooser_.use_few(on); }

  std::size_t workers() const noexcept { return chooser_.size(); }
  /// A call that waits behind another one in its worker may find a better one.
  bool may_find_another() const noexcept { return chooser_.size() > 1 || watcher_ != nullptr; }
  /// Calls that run or are about to run.
  std::size_t in_flight() const noexcept { return chooser_.in_flight(); }
  /// See Dispatcher::calls_to_keep_busy().
  std::size_t calls_to_keep_busy() const noexcept {
    const std::size_t calls = pinned_.slots() + pinned_.links();
    return watcher_ == nullptr ? calls : calls + chooser_.size() + 1;
  }
  std::vector<BroadcastPlace> broadcast_places() const {
    std::vector<BroadcastPlace> places;
    pinned_.for_each_link([&](const DataLink& link) {
      if (link.load().ready) places.push_back({link.worker().slot(), link.number});
    });
    return places;
  }

  // ---- new calls ----------------------------------------------------------------------------------------------------

  Route route(const Call& call) noexcept {
    if (KeyedCalls::poisoned(call)) return {.refusal = keyed_.failure(call)};
    DataLink* home = home_of(call);
    if (home == nullptr && call.key != nullptr) home = pinned_.next_home();
    if (home != nullptr) return {.link = has_room(*home) ? home : nullptr, .home = home};
    if (call.only != 0) return {.refusal = home_is_gone(call)};
    return {.link = waiting_.empty() ? chooser_.choose() : nullptr};
  }
  /// For a call that would have to wait for any worker: one to which it can be sent ahead. Null if there is none.
  DataLink* route_ahead(const Call& call) noexcept {
    return waiting_.empty() && may_go_ahead(call) ? chooser_.choose_ahead() : nullptr;
  }

  // ---- the queue ----------------------------------------------------------------------------------------------------

  /// The call waits for its home, or for any worker if that is null.
  void push(std::shared_ptr<Call> call, DataLink* home) noexcept {
    if (home != nullptr) return pinned_.push(*home, std::move(call));
    waiting_.push(std::move(call));
    notify_watcher();
  }
  /// The same, as the next one of its priority.
  void push_front(std::shared_ptr<Call> call, DataLink* home) noexcept {
    if (home != nullptr) return pinned_.push_front(*home, std::move(call));
    waiting_.push_front(std::move(call));
    notify_watcher();
  }
  /// A call that waits for a worker.
  void remove(Call& call) noexcept { call.pinned_at != nullptr ? pinned_.remove(call) : waiting_.remove(call); }
  void rest(std::shared_ptr<Call> call) noexcept { waiting_.rest(std::move(call)); }
  std::shared_ptr<Call> end_rest(Call& call) noexcept { return waiting_.end_rest(call); }
  /// Any of the calls that wait or rest. Null if there is none.
  std::shared_ptr<Call> take_any() noexcept {
    auto call = waiting_.take_any();
    if (!call) call = pinned_.take_any();
    return call;
  }

  /// The next call that a worker can take.
  Turn next() noexcept {
    while (!waiting_.empty()) {
      DataLink* link = chooser_.choose();
      if (link == nullptr && may_go_ahead(waiting_.front())) link = chooser_.choose_ahead();
      if (link == nullptr) break;
      if (Turn turn = turn_of(waiting_.pop(), *link); turn.call) return turn;
    }
    return {};
  }
  /// The next call for a worker for which calls wait. They take turns with those that any worker may run.
  Turn next_for(DataLink& link) noexcept {
    while (!link.pinned.empty() && has_room(link))
      if (Turn turn = turn_of(pinned_.pop_next(link, waiting_), link); turn.call) return turn;
    return {};
  }

  /// The worker that has to run it, if there is one now.
  DataLink* home_of(const Call& call) const noexcept {
    if (call.only != 0) return pinned_.find(call.only);
    return call.key != nullptr ? pinned_.find(call.key->link) : nullptr;
  }
  /// The failure of a call of a broadcast.
  static std::exception_ptr home_is_gone(const Call& call) noexcept {
    return failure_of([&] {
      return std::make_exception_ptr(Error(
          Errc::worker_exited, "the worker for the broadcast of '" + call.routine() + "' exited before it began"));
    });
  }

  /// Calls that no worker could take.
  std::size_t waiting() const noexcept { return waiting_.size(); }
  /// Calls that wait for a certain worker.
  std::size_t pinned() const noexcept { return pinned_.size(); }
  /// All of them, and those that rest.
  std::size_t queued() const noexcept { return waiting_.size() + waiting_.resting() + pinned_.size(); }

  /// Learns of each call that has to wait for any worker from now on. Null: nobody does. It outlives this setting.
  void watch(QueueWatcher* watcher) noexcept { watcher_ = watcher; }

 private:
  /// No call waits for it then, see PinnedCalls.
  static bool has_room(const DataLink& link) noexcept {
    const auto load = link.load();
    return load.ready && load.in_flight < load.capacity;
  }
  void notify_watcher() noexcept {
    if (watcher_ != nullptr) watcher_->call_waits(waiting_.size());
  }
  /// For a call that has left the queue, and the worker that was chosen for it. No turn if it has to wait for its home.
  Turn turn_of(std::shared_ptr<Call> call, DataLink& chosen) noexcept {
    Turn turn{.call = std::move(call), .link = &chosen};
    if (KeyedCalls::poisoned(*turn.call)) {
      turn.failure = keyed_.failure(*turn.call);
    } else if (DataLink* const home = home_of(*turn.call); home != nullptr) {
      turn.link = home;
      if (home != &chosen && !has_room(*home)) pinned_.push(*home, std::move(turn.call));
    } else if (turn.call->only != 0) {
      turn.failure = home_is_gone(*turn.call);
    }
    return turn;
  }
  /// Calls that have waited for one worker. Those that any other may run wait for any; returns the rest.
  CallQueue release(CallQueue calls) noexcept {
    CallQueue kept;
    while (!calls.empty()) {
      auto call = calls.pop();
      if (call->only != 0)
        kept.push(std::move(call));
      else
        push(std::move(call), nullptr);
    }
    return kept;
  }

  const KeyedCalls& keyed_;
  WaitingCalls waiting_;
  PinnedCalls pinned_;
  LinkChooser<DataLink> chooser_{available_cores()};
  QueueWatcher* watcher_ = nullptr;
};

}}}  // namespace drover::v1::detail
