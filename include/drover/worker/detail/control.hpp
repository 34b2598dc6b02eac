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
#include <drover/wire/frame.hpp>
#include <drover/wire/protocol.hpp>
#include <drover/worker/detail/drain.hpp>
#include <drover/worker/detail/parent.hpp>
#include <drover/worker/detail/state.hpp>

namespace drover::inline v1::detail {

/// A reply on the control socket. Small enough for the kernel to take it whole or not at all, so that two threads may
/// send them.
struct ControlReply {
  template <class Body>
  ControlReply(FrameType type, std::uint64_t id, const Body& content) noexcept {
    static_assert(sizeof content == sizeof body);
    header.type = type;
    header.id = id;
    header.size = sizeof content;
    std::memcpy(body, &content, sizeof content);
  }

  /// True unless the socket is full.
  bool send(int socket) const noexcept {
    for (;;) {
      if (::send(socket, this, sizeof *this, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return true;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return false;
      if (errno != EINTR) return true;  // nobody there any more, which is noticed elsewhere
    }
  }

  FrameHeader header;
  std::byte body[24];
};
static_assert(sizeof(ControlReply) == 48);

/// The answer to STOP.
inline ControlReply stop_reply(const WorkerState& state, bool cut) noexcept {
  StopReply body;
  body.cut = cut ? 1 : 0;
  // What is cut off counts as cancelled: calls that still run, and those that have not even been read. The main thread
  // goes on meanwhile; in this order no difference falls below zero.
  const std::uint64_t ended = state.ended.load(), read = state.read.load();
  const std::uint64_t last = state.last_call.load(), last_read = state.last_read.load();
  body.drained = state.drained.load();
  body.cancelled = state.cancelled.load() + (read - ended) + (last > last_read ? last - last_read : 0);
  return ControlReply(FrameType::stop_reply, last, body);
}

/// The thread that guards a worker from in_worker() until the process has gone. It never runs code of the user's, takes
/// no lock and, from a deadline to the hard exit, allocates nothing, so that nothing a routine does can keep it. It is
/// never joined.
class ControlThread {
 public:
  static void start(WorkerState& state) {
    auto control = std::make_unique<ControlThread>(state);
    const BlockAllSignals blocked;
    std::thread([control = std::move(control)] { control->run(); }).detach();
  }

  explicit ControlThread(WorkerState& state) : state_(state), drain_(state.shutdown_grace) {
    reader_.prepare();  // allocates its buffer, for good
    unsent_.reserve(256);
  }

 private:
  [[noreturn]] void run() {
    for (;;) {
      wait();
      const Clock::time_point now = Clock::now();
      hear_main();
      hear_signals(now);
      if (state_.parent_ended.load() || (parent_.revents != 0)) parent_lost(now);
      if (socket_.revents != 0) hear_socket(now);
      act();  // before anything is answered: who has the answer may rely on it
      send_replies();
    }
  }

  void wait() noexcept {
    socket_.events = unsent_.empty() ? POLLIN : POLLIN | POLLOUT;
    pollfd watched[] = {bell_, socket_, parent_};
    timespec timeout{};
    const timespec* bound = nullptr;
    if (const Deadline deadline = drain_.deadline()) {
      using namespace std::chrono;
      const auto left = std::max(duration_cast<nanoseconds>(*deadline - Clock::now()), nanoseconds::zero());
      timeout.tv_sec = static_cast<time_t>(duration_cast<seconds>(left).count());
      timeout.tv_nsec = static_cast<long>((left % seconds(1)).count());
      bound = &timeout;
    }
    if (::ppoll(watched, std::size(watched), bound, nullptr) <= 0)
      for (pollfd& fd : watched) fd.revents = 0;
    if (watched[0].revents != 0) state_.control_bell.take();
    socket_.revents = watched[1].revents;
    parent_.revents = watched[2].revents;
  }

  void hear_main() {
    if ((state_.orders.load() & Order::finished) != 0) drain_.finished(Clock::now());
    if (state_.data_lost.load() && !drain_.draining()) parent_lost(Clock::now());
  }

  void hear_signals(Clock::time_point now) noexcept {
    if (state_.terminations.exchange(0) != 0) drain_.terminate(now);
    for (unsigned n = state_.interrupts.exchange(0); n != 0; --n) drain_.interrupt(now);
  }

  void parent_lost(Clock::time_point now) noexcept {
    parent_.fd = socket_.fd = -1;  // poll() passes over them
    unsent_.clear();
    if (lost_) return;
    lost_ = true;
    end_group_with_this_process();
    if (state_.phase.load() == WorkerState::Phase::booting) leave();  // nothing has begun that could be finished
    drain_.parent_died(now);
    state_.orders.fetch_or(Order::drain | Order::parent_gone);
    state_.main_bell.ring();
  }

  /// As good as the parent's death, unless the work is done: then it only has no more to say.
  void socket_ended(Clock::time_point now) noexcept {
    if (parent_.fd < 0 || (state_.orders.load() & Order::finished) == 0) return parent_lost(now);
    socket_.fd = -1;
    unsent_.clear();
  }

  void hear_socket(Clock::time_point now) {
    const std::span<std::byte> room = reader_.prepare();
    const ssize_t received = ::recv(socket_.fd, room.data(), room.size(), MSG_DONTWAIT);
    if (received < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
    if (received <= 0) return socket_ended(now);
    reader_.commit(static_cast<std::size_t>(received));
    try {
      while (const auto frame = reader_.next()) obey(*frame, now);
    } catch (const Error&) {
      parent_lost(now);
    }
  }

  void obey(const Frame& frame, Clock::time_point now) {
    switch (frame.header.type) {
      case FrameType::stop:
        if (const auto body = decode_body<StopBody>(frame.body)) return stop(frame.header.id, *body, now);
        break;
      case FrameType::cancel: return cancel(frame.header.id);
      case FrameType::status: return report(frame.header.id, now);
      default: break;
    }
    throw Error(Errc::protocol_error, "unexpected frame on the control socket");
  }

  void stop(std::uint64_t last_call, const StopBody& body, Clock::time_point now) noexcept {
    drain_.stop(now, deadline_from(body.drain_until), deadline_from(body.end_by));
    if (last_call > state_.last_call.load()) state_.last_call.store(last_call);
    const std::uint32_t before = state_.orders.fetch_or(Order::drain | Order::stop);
    // Whoever comes second of the end of the work and the first STOP answers it.
    if ((before & (Order::stop | Order::finished)) == Order::finished) unsent_.push_back(stop_reply(state_, false));
  }

  void cancel(std::uint64_t call) {
    // To the main thread first: it looks there once it has made the call known to the notifier.
    state_.cancelled_calls.push(call);
    state_.main_bell.ring();
    if (!state_.has_notifier.load()) return;
    state_.cancelled_sources.push(call);
    state_.notifier_bell.ring();
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
    std::size_t sent = 0;
    while (sent < unsent_.size() && socket_.fd >= 0 && unsent_[sent].send(socket_.fd)) ++sent;
    unsent_.erase(unsent_.begin(), unsent_.begin() + static_cast<std::ptrdiff_t>(sent));
  }

  /// Carries out what the drain decides.
  void act() noexcept {
    if (!drain_.draining()) return;
    std::uint32_t orders = Order::drain;
    if (drain_.bounded()) orders |= Order::bounded;
    for (;;) {
      const Drain::Action action = drain_.next(Clock::now());
      if (action == Drain::Action::leave) leave();
      if (action == Drain::Action::none) break;
      orders |= Order::cancel_calls;
    }
    const std::uint32_t before = state_.orders.fetch_or(orders);
    if ((before & Order::finished) != 0) return;
    if ((before | orders) != told_) state_.main_bell.ring();
    told_ = before | orders;
    if ((orders & Order::cancel_calls) != 0 && state_.has_notifier.load()) state_.notifier_bell.ring();
  }

  /// The hard exit.
  [[noreturn]] void leave() noexcept {
    const std::uint32_t before = state_.orders.fetch_or(Order::cut);
    if ((before & (Order::stop | Order::finished)) == Order::stop && socket_.fd >= 0)
      stop_reply(state_, true).send(socket_.fd);
    for (;;) ::syscall(SYS_exit_group, 1);  // not _exit(): sanitizers make something else of it
  }

  WorkerState& state_;
  Drain drain_;
  FrameReader reader_{64};  // nothing larger comes on this socket
  std::vector<ControlReply> unsent_;
  std::uint32_t told_ = 0;
  bool lost_ = false;
  pollfd bell_{state_.control_bell.fd(), POLLIN, 0};
  pollfd socket_{state_.control.get(), POLLIN, 0};
  pollfd parent_{state_.parent.get(), POLLIN, 0};
};

}  // namespace drover::inline v1::detail
