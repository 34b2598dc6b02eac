#pragma once

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include <drover/error.hpp>
#include <drover/os/signals.hpp>
#include <drover/wire/channel.hpp>
#include <drover/wire/frame.hpp>
#include <drover/wire/protocol.hpp>
#include <drover/worker/detail/drain.hpp>
#include <drover/worker/detail/loop_probe.hpp>
#include <drover/worker/detail/parent_death.hpp>
#include <drover/worker/detail/shared_state.hpp>
#include <drover/worker/detail/stall_watch.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// A frame from the worker on the control socket. It is so small that the kernel takes it as a whole or not at all, so
/// two threads may send such frames.
struct ControlReply {
  enum class Sent {
    done,
    socket_full,      // try again when it is writable
    short_of_memory,  // try again after Channel::memory_pause
    lost              // the parent will never read it
  };

  ControlReply(FrameType type, std::uint64_t id) noexcept {
    header.type = type;
    header.id = id;
  }
  template <class Body>
  ControlReply(FrameType type, std::uint64_t id, const Body& content) noexcept : ControlReply(type, id) {
    static_assert(sizeof content <= sizeof body);
    header.size = sizeof content;
    std::memcpy(body, &content, sizeof content);
  }

  Sent send(int socket) const noexcept {
    for (;;) {
      if (::send(socket, this, sizeof header + header.size, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return Sent::done;
      if (errno == EAGAIN) return Sent::socket_full;
      if (errno == ENOBUFS || errno == ENOMEM) return Sent::short_of_memory;
      if (errno != EINTR) return Sent::lost;
    }
  }
  /// Waits as long as necessary; returns false if the parent will never read it.
  bool send_for_certain(int socket) const noexcept {
    for (;;) {
      switch (send(socket)) {
        case Sent::done: return true;
        case Sent::lost: return false;
        case Sent::short_of_memory: ::poll(nullptr, 0, static_cast<int>(Channel::memory_pause.count())); break;
        case Sent::socket_full: {
          pollfd writable{socket, POLLOUT, 0};
          ::poll(&writable, 1, -1);
        }
      }
    }
  }

  FrameHeader header;
  std::byte body[24];
};
static_assert(sizeof(ControlReply) == 48);

/// The reply to STOP.
inline ControlReply stop_reply(const WorkerState& state, bool cut) noexcept {
  StopReply body;
  body.cut = cut ? 1 : 0;
  // Calls that are cut off count as cancelled: those still running, and those that have not even been read. The main
  // thread continues meanwhile. If the counters are read in this order, no difference falls below zero.
  const std::uint64_t ended = state.ended.load(), read = state.read.load();
  const std::uint64_t last = state.last_call.load(), last_read = state.last_read.load();
  body.drained = state.drained.load();
  body.cancelled = state.cancelled.load() + (read - ended) + (last > last_read ? last - last_read : 0);
  return ControlReply(FrameType::stop_reply, last, body);
}

/// The thread that guards a worker from in_worker() until the process has exited. It never runs user code and takes no
/// lock; from a deadline to the hard exit it allocates nothing. So nothing that a routine does can delay it. It is
/// never joined.
class ControlThread {
 public:
  static void start(WorkerState& state) {
    auto control = std::make_unique<ControlThread>(state);
    const BlockAllSignals blocked;
    std::thread([control = std::move(control)] { control->run(); }).detach();
  }

  explicit ControlThread(WorkerState& state)
      : state_(state), drain_(state.shutdown_grace), stall_(state.stall), loop_(state) {
    reader_.prepare();  // allocates the buffer, once
    unsent_.reserve(2 * most_unsent);
  }

 private:
  [[noreturn]] void run() {
    for (;;) {
      wait();
      const Clock::time_point now = Clock::now();
      read_main_flags();
      handle_signals(now);
      if (state_.parent_ended.load() || (parent_.revents != 0)) parent_lost(now);
      if (socket_.revents != 0) read_socket(now);
      watch_main_loop(now);
      state_.late_flush.send_late(state_.data, now);
      apply_drain();  // before the replies: the parent may rely on it once it has one
      send_replies();
    }
  }

  void wait() noexcept {
    // While the parent does not read its replies, this thread does not read from the parent, or replies would pile up.
    socket_.events = unsent_.size() < most_unsent ? POLLIN : 0;
    if (!unsent_.empty() && !short_of_memory_) socket_.events |= POLLOUT;
    calls_.revents = 0;
    pollfd watched[] = {wakeup_, socket_, parent_, calls_};
    const nfds_t count = stall_.waits_for_calls() ? 4 : 3;
    timespec timeout{};
    const timespec* bound = nullptr;
    const Deadline watched_for = earlier(stall_.look_at(), state_.late_flush.due());
    if (const Deadline deadline = earlier(drain_.deadline(), watched_for)) {
      using namespace std::chrono;
      const auto left = std::max(duration_cast<nanoseconds>(*deadline - Clock::now()), nanoseconds::zero());
      timeout.tv_sec = duration_cast<seconds>(left).count();
      timeout.tv_nsec = (left % seconds(1)).count();
      bound = &timeout;
    }
    constexpr timespec pause{0, std::chrono::nanoseconds(Channel::memory_pause).count()};
    if (short_of_memory_ && (bound == nullptr || timeout.tv_sec > 0 || timeout.tv_nsec > pause.tv_nsec)) bound = &pause;
    const int ready = ::ppoll(watched, count, bound, nullptr);
    if (ready <= 0)
      for (pollfd& fd : watched) fd.revents = 0;
    if (ready < 0) ::usleep(static_cast<useconds_t>(pause.tv_nsec / 1000));  // ENOMEM: avoid a busy loop
    if (watched[0].revents != 0) state_.control_wakeup.consume();
    socket_.revents = watched[1].revents;
    parent_.revents = watched[2].revents;
    calls_.revents = watched[3].revents;
  }

  void read_main_flags() {
    constexpr std::uint32_t calls_over = WorkerFlag::calls_ended | WorkerFlag::finished;
    if ((state_.flags.load() & calls_over) != 0) drain_.finished(Clock::now());
    if (state_.data_lost.load() && !drain_.draining()) parent_lost(Clock::now());
  }

  /// Looks whether the main loop turns, see StallWatch.
  void watch_main_loop(Clock::time_point now) {
    if (lost_ || (state_.flags.load() & (WorkerFlag::calls_ended | WorkerFlag::finished)) != 0) stall_.end();
    if ((calls_.revents & POLLNVAL) != 0) stall_.end();  // the program has closed it
    if (calls_.revents != 0) {
      loop_.take_arrivals();
      stall_.calls_arrived(now);
    }
    if (!stall_.is_due(now)) return;
    switch (stall_.look(now, loop_.look())) {
      case StallWatch::Action::none: return;
      case StallWatch::Action::probe: return loop_.ask();
      case StallWatch::Action::report: break;
    }
    const auto unanswered = std::chrono::duration_cast<std::chrono::nanoseconds>(stall_.unanswered());
    if (unsent_.size() < most_unsent && state_.greeted.load())
      unsent_.push_back(
          ControlReply(FrameType::stalled, loop_.running_call(), StallBody{.for_ns = unanswered.count()}));
  }

  void handle_signals(Clock::time_point now) {
    const bool drained_before = drain_.draining();
    for (unsigned n = state_.terminations.exchange(0); n != 0; --n) terminate(now);
    for (unsigned n = state_.interrupts.exchange(0); n != 0; --n) drain_.interrupt(now);
    // The main thread may be busy with a routine, so this thread notifies the parent to send nothing more.
    if (!drained_before && drain_.draining() && socket_.fd >= 0 && state_.greeted.load())
      unsent_.push_back(ControlReply(FrameType::draining, nothing_begun_yet));
  }
  /// Handles SIGTERM or SIGHUP, see WorkerOptions::on_terminate. Once the parent has asked for a stop or has died, such
  /// a signal always applies to this process.
  void terminate(Clock::time_point now) noexcept {
    const bool ending = lost_ || (state_.flags.load() & WorkerFlag::stop) != 0;
    switch (ending ? OnTerminate::cancel : state_.environment.on_terminate) {
      case OnTerminate::cancel: return drain_.terminate(now);
      case OnTerminate::drain: return drain_.interrupt(now);
      case OnTerminate::leave_to_parent: return;
    }
  }

  void parent_lost(Clock::time_point now) noexcept {
    parent_.fd = socket_.fd = -1;  // poll() ignores them
    unsent_.clear();
    if (lost_) return;
    lost_ = true;
    end_group_with_this_process();
    if (state_.phase.load() == WorkerState::Phase::booting) hard_exit();  // no work has begun that could be finished
    drain_.parent_died(now);
    state_.flags.fetch_or(WorkerFlag::drain | WorkerFlag::parent_gone);
    state_.main_wakeup.notify();
  }

  /// Counts as the parent's death, unless the work is finished: then the parent only has no more frames to send.
  void socket_ended(Clock::time_point now) noexcept {
    if (parent_.fd < 0 || (state_.flags.load() & WorkerFlag::finished) == 0) return parent_lost(now);
    socket_.fd = -1;
    unsent_.clear();
  }

  void read_socket(Clock::time_point now) {
    const std::span<std::byte> room = reader_.prepare();
    const ssize_t received = ::recv(socket_.fd, room.data(), room.size(), MSG_DONTWAIT);
    if (received < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (received < 0 && (errno == ENOBUFS || errno == ENOMEM)) {
      ::poll(nullptr, 0, static_cast<int>(Channel::memory_pause.count()));  // the socket stays readable
      return;
    }
    if (received <= 0) return socket_ended(now);
    reader_.commit(static_cast<std::size_t>(received));
    try {
      while (const auto frame = reader_.next()) handle_frame(*frame, now);
    } catch (const std::exception&) {  // malformed, or no memory to act on it; no waiter must be left
      parent_lost(now);
    }
  }

  void handle_frame(const Frame& frame, Clock::time_point now) {
    switch (frame.header.type) {
      case FrameType::stop:
        if (const auto body = decode_body<StopBody>(frame.body)) return stop(frame.header.id, *body, now);
        break;
      case FrameType::cancel: return cancel(frame.header.id, static_cast<CancelReason>(frame.header.status));
      case FrameType::status: return report(frame.header.id, now);
      case FrameType::recall:
        if (state_.gate.give_back(frame.header.id))
          unsent_.push_back(ControlReply(FrameType::recalled, frame.header.id));
        return;
      default: break;
    }
    throw Error(Errc::protocol_error, "unexpected frame on the control socket");
  }

  void stop(std::uint64_t last_call, const StopBody& body, Clock::time_point now) noexcept {
    drain_.stop(now, deadline_from(body.drain_until), deadline_from(body.end_by));
    if (last_call > state_.last_call.load()) state_.last_call.store(last_call);
    const std::uint32_t before = state_.flags.fetch_or(WorkerFlag::drain | WorkerFlag::stop);
    // The end of the work and the first STOP come in either order; the second of them sends the reply.
    if ((before & (WorkerFlag::stop | WorkerFlag::finished)) == WorkerFlag::finished)
      unsent_.push_back(stop_reply(state_, false));
  }

  void cancel(std::uint64_t call, CancelReason reason) {
    // The main thread's queue comes first: the main thread checks it after it has registered the call's stop source for
    // the stop-token thread.
    state_.cancelled_calls.push(CancelledCall::pack(call, reason));
    state_.main_wakeup.notify();
    if (!state_.has_stop_token_thread.load()) return;
    state_.cancelled_sources.push(call);
    state_.stop_token_wakeup.notify();
  }

  void report(std::uint64_t request, Clock::time_point now) {
    StatusReply body;
    body.served = state_.ended.load();
    const std::uint64_t read = state_.read.load();
    body.in_flight = read > body.served ? read - body.served : 0;
    const Clock::time_point since{Duration(state_.idle_since.load())};
    if (body.in_flight == 0 && now > since)
      body.idle_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(now - since).count();
    unsent_.push_back(ControlReply(FrameType::status_reply, request, body));
  }

  void send_replies() noexcept {
    short_of_memory_ = false;
    std::size_t sent = 0;
    auto result = ControlReply::Sent::done;
    for (; sent < unsent_.size() && socket_.fd >= 0; ++sent)
      if (result = unsent_[sent].send(socket_.fd); result != ControlReply::Sent::done) break;
    unsent_.erase(unsent_.begin(), unsent_.begin() + static_cast<std::ptrdiff_t>(sent));
    short_of_memory_ = result == ControlReply::Sent::short_of_memory;
    if (result == ControlReply::Sent::lost) socket_ended(Clock::now());
  }

  /// Carries out the decisions of the drain.
  void apply_drain() noexcept {
    if (!drain_.draining()) return;
    std::uint32_t flags = WorkerFlag::drain;
    if (drain_.bounded()) flags |= WorkerFlag::bounded;
    for (;;) {
      const Drain::Action action = drain_.next(Clock::now());
      if (action == Drain::Action::leave) hard_exit();
      if (action == Drain::Action::none) break;
      flags |= WorkerFlag::cancel_calls;
    }
    const std::uint32_t before = state_.flags.fetch_or(flags);
    if ((before & WorkerFlag::finished) != 0) return;
    if ((before | flags) != reported_flags_) state_.main_wakeup.notify();
    reported_flags_ = before | flags;
    if ((flags & WorkerFlag::cancel_calls) != 0 && state_.has_stop_token_thread.load())
      state_.stop_token_wakeup.notify();
  }

  /// The hard exit, after a last STOP_REPLY if one is due.
  [[noreturn]] void hard_exit() noexcept {
    const std::uint32_t before = state_.flags.fetch_or(WorkerFlag::cut);
    if ((before & (WorkerFlag::stop | WorkerFlag::finished)) == WorkerFlag::stop && socket_.fd >= 0) {
      const ControlReply reply = stop_reply(state_, true);
      for (int tries = 0; tries < 10 && reply.send(socket_.fd) == ControlReply::Sent::short_of_memory; ++tries)
        ::usleep(1000);
    }
    for (;;) ::syscall(SYS_exit_group, exit_cut_off);  // not _exit(), which sanitizers change
  }

  static constexpr std::size_t most_unsent = 256;

  WorkerState& state_;
  Drain drain_;
  StallWatch stall_;
  LoopProbe loop_;
  FrameReader reader_{64};  // no larger frame arrives on this socket
  std::vector<ControlReply> unsent_;
  std::uint32_t reported_flags_ = 0;
  bool lost_ = false;
  bool short_of_memory_ = false;
  pollfd wakeup_{state_.control_wakeup.fd(), POLLIN, 0};
  pollfd socket_{state_.control.get(), POLLIN, 0};
  pollfd parent_{state_.parent.get(), POLLIN, 0};
  pollfd calls_{loop_.arrivals_fd(), POLLIN, 0};  // watched while no call is in progress
};

}}}  // namespace drover::v1::detail
