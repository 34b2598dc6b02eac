#pragma once

#include <algorithm>
#include <cerrno>
#include <limits>
#include <poll.h>
#include <string>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <utility>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/co_spawn.hpp>
#include <asio/post.hpp>

#include <drover/error.hpp>
#include <drover/os/credentials.hpp>
#include <drover/os/detail/core.hpp>
#include <drover/wire/detail/version.hpp>
#include <drover/worker/detail/control.hpp>
#include <drover/worker/detail/notifier.hpp>
#include <drover/worker/detail/outcome.hpp>
#include <drover/worker/detail/service.hpp>

namespace drover::inline v1::detail {

inline WorkerService::WorkerService(WorkerState& state, const RoutineTable& routines)
    : state_(state),
      routines_(routines),
      limit_(std::min<std::uint64_t>(state.environment.max_message_size, std::numeric_limits<std::uint32_t>::max())),
      data_(state.data) {
  data_watch_.assign(data_.fd());
  bell_watch_.assign(state.main_bell.fd());
}

inline WorkerService::~WorkerService() {
  try {
    data_watch_.release();  // the descriptors are the state's
    bell_watch_.release();
  } catch (const std::exception&) {
  }
}

inline void WorkerService::run() {
  if (routines_.any_takes_stop_token()) start_notifier(state_);
  state_.phase.store(WorkerState::Phase::serving);
  say_hello();
  watch_bell();
  watch_data();
  while (!finished_) {  // a routine may have stopped the context
    context_.restart();
    context_.run();
  }
}

inline void WorkerService::say_hello() {
  ByteBuffer body;
  Encoder encoder(body);
  encoder.put(Hello{library_version, routines_.names()});
  FrameWriter writer;
  FrameHeader header;
  header.type = FrameType::hello;
  header.id = hello_id();
  writer.queue(header, body.view());
  iovec part{};
  while (writer.gather(&part, 1) != 0) {
    try {
      writer.consumed(
          send_with_credentials(state_.control.get(), {static_cast<const std::byte*>(part.iov_base), part.iov_len}));
    } catch (const std::system_error& e) {
      if (e.code() == std::errc::broken_pipe || e.code() == std::errc::connection_reset) return;  // seen elsewhere
      if (e.code() != std::errc::resource_unavailable_try_again) throw;
      pollfd writable{state_.control.get(), POLLOUT, 0};
      ::poll(&writable, 1, -1);
    }
  }
}

// Waiting -----------------------------------------------------------------------------------------

inline void WorkerService::watch_bell() {
  bell_watch_.async_wait(asio::posix::stream_descriptor::wait_read, [this](std::error_code ec) {
    if (ec) return;
    state_.main_bell.take();
    watch_bell();
    hear();
    go_on();
  });
}

inline void WorkerService::watch_data() {
  if (std::exchange(waiting_for_data_, true)) return;
  data_watch_.async_wait(asio::posix::stream_descriptor::wait_read, [this](std::error_code ec) {
    if (ec) return;
    waiting_for_data_ = false;
    on_readable();
  });
}

inline void WorkerService::watch_writable() {
  if (std::exchange(waiting_for_room_, true)) return;
  data_watch_.async_wait(asio::posix::stream_descriptor::wait_write, [this](std::error_code ec) {
    if (ec) return;
    waiting_for_room_ = full_ = false;
    go_on();
  });
}

inline void WorkerService::go_on_later() {
  if (std::exchange(going_on_later_, true)) return;
  asio::post(context_, [this] {
    going_on_later_ = false;
    if (held_ && !full_) take_frames();
    go_on();
  });
}

// What comes in -----------------------------------------------------------------------------------

inline void WorkerService::on_readable() {
  // After a lone frame there is rarely another one: waiting costs less than asking. Bounded, for the sake of
  // coroutines.
  for (int round = 0; round < 16 && !held_ && !all_read() && receive(); ++round)
    if (take_frames() == 1 && !data_.reader().mid_frame()) break;
  go_on();
}

/// True if something was received.
inline bool WorkerService::receive() {
  if (intake_left_ != 0) {
    int waiting = 0;
    ::ioctl(data_.fd(), FIONREAD, &waiting);
    const std::size_t at_least = std::min(static_cast<std::size_t>(waiting), data_.reader().prepare().size());
    intake_left_ -= std::min(intake_left_, std::max<std::size_t>(at_least, 1));
  }
  const Channel::Received received = data_.receive();
  if (received == Channel::Received::closed) connection_lost();
  return received == Channel::Received::some;
}

/// Returns how many.
inline std::size_t WorkerService::take_frames() {
  std::size_t count = 0;
  held_ = true;
  now_ = Clock::now();
  try {
    for (Clock::time_point began; !full_ && !parent_gone_; ++count) {
      if (count == 1) began = now_;
      if (count > 1 && !coroutines_.empty() && now_ - began >= longest_wait) break;  // coroutines get their turn
      const auto frame = data_.next();
      if (!frame) {
        held_ = false;
        break;
      }
      accept(*frame);
    }
  } catch (const Error&) {  // of protocol: nothing that follows makes sense
    held_ = false;
    connection_lost();
  }
  return count;
}

inline void WorkerService::accept(const Frame& frame) {
  const FrameHeader& call = frame.header;
  if (call.type != FrameType::call || call.id <= state_.last_read.load(std::memory_order_relaxed))
    throw Error(Errc::protocol_error, "unexpected frame on the data socket");
  if (data_.wants_write() && now_ - unsent_since_ >= longest_wait) flush();
  current_ = call.id;
  current_cancelled_ = early_cancels_.erase(call.id) != 0;
  state_.last_read.store(call.id, std::memory_order_release);
  add_one(state_.read);
  try {
    dispatch(frame);
  } catch (const std::bad_alloc&) {
    coroutines_.erase(call.id);
    state_.sources.remove(call.id);
    encode_texts(scratch_, limit_, {"std::bad_alloc", "out of memory"});
    answer(call, ResultStatus::remote_error, scratch_);
    ended(false);
  }
}

inline void WorkerService::dispatch(const Frame& frame) {
  const FrameHeader& call = frame.header;
  Decoder body(frame.body, spare_memory(limit_));
  std::string_view name;
  try {
    name = body.get<std::string_view>();
  } catch (const DecodeError& e) {
    return refuse(call, ResultStatus::bad_arguments, std::string("malformed call: ") + e.what());
  }
  Routine* const routine = routines_.find(name);
  if (routine == nullptr) {
    return refuse(call, ResultStatus::unknown_routine, "this worker has no routine named \"" + std::string(name) + '"');
  }
  routine->is_coroutine() ? start_coroutine(frame, *routine) : run_plain(frame, *routine, name, body);
}

inline void WorkerService::run_plain(const Frame& frame, Routine& routine, std::string_view name, Decoder& arguments) {
  const FrameHeader call = frame.header;
  std::stop_token stop;
  if (routine.takes_stop_token()) stop = state_.sources.add(call.id);
  hear();  // after that, so that between here and the notifier no cancellation is lost
  if (is_cancelled()) {
    if (routine.takes_stop_token()) state_.sources.remove(call.id);
    return refuse(call, ResultStatus::cancelled, "cancelled before it began", true);
  }
  // Results that are finished do not wait for a routine that may take its time, or take this process along.
  if (routine.quick_runs < trusted_after && data_.wants_write()) {
    flush();
    now_ = Clock::now();
  }
  const Clock::time_point began = now_;
  scratch_.clear();
  bool cancelled = false;
  const ResultStatus status = conclude(scratch_, limit_, name, routine, cancelled, [&] {
    try {
      routine.run(arguments, stop, scratch_);
    } catch (...) {
      cancelled = stop.stop_requested();
      throw;
    }
  });
  if (routine.takes_stop_token()) state_.sources.remove(call.id);
  hear();
  answer(call, status, scratch_);
  routine.quick_runs = now_ - began >= longest_wait ? 0 : std::min(routine.quick_runs + 1, trusted_after);
  ended(is_cancelled());
}

inline void WorkerService::start_coroutine(const Frame& frame, Routine& routine) {
  auto owned = std::make_unique<CoroutineCall>();
  CoroutineCall& call = *owned;
  call.header = frame.header;
  call.routine = &routine;
  call.body = data_.reader().take_body();
  Decoder arguments(call.body.view(), spare_memory(limit_));
  call.name = arguments.get<std::string_view>();
  coroutines_.emplace(call.header.id, std::move(owned));
  std::stop_token stop;
  if (routine.takes_stop_token()) stop = state_.sources.add(call.header.id);
  hear();
  if (call.cancelled || is_cancelled()) {
    if (routine.takes_stop_token()) state_.sources.remove(call.header.id);
    const auto taken = coroutines_.extract(call.header.id);
    return refuse(call.header, ResultStatus::cancelled, "cancelled before it began", true);
  }
  asio::co_spawn(context_, routine.start(arguments, std::move(stop), call.result),
                 asio::bind_cancellation_slot(call.cancellation.slot(), [this, &call](std::exception_ptr failure) {
                   coroutine_ended(call, std::move(failure));
                 }));
}

inline void WorkerService::coroutine_ended(CoroutineCall& call, std::exception_ptr failure) {
  auto owned = coroutines_.extract(call.header.id);
  if (call.routine->takes_stop_token()) state_.sources.remove(call.header.id);
  hear();
  const ResultStatus status = conclude(call.result, limit_, call.name, *call.routine, call.cancelled, [&] {
    if (failure) std::rethrow_exception(failure);
  });
  answer(call.header, status, call.result);
  ended(call.cancelled);
  over_.push_back(std::move(owned.mapped()));
  go_on_later();
}

// What goes out -----------------------------------------------------------------------------------

inline void WorkerService::answer(const FrameHeader& call, ResultStatus status, FrameBody& body) {
  FrameHeader header;
  header.type = FrameType::result;
  header.status = static_cast<std::uint8_t>(status);
  header.slot = call.slot;
  header.id = call.id;
  header.core = current_core();
  const bool first = !data_.wants_write();
  data_.queue(header, std::move(body));
  now_ = Clock::now();
  if (first) unsent_since_ = now_;
  if (data_.gathered_enough(header.core, call.core)) flush();
}

inline void WorkerService::refuse(const FrameHeader& call, ResultStatus status, std::string_view text, bool cancelled) {
  encode_texts(scratch_, limit_, {text});
  answer(call, status, scratch_);
  ended(cancelled);
}

inline void WorkerService::ended(bool cancelled) {
  if (draining_) add_one(cancelled ? state_.cancelled : state_.drained);
  state_.idle_since.store(now_.time_since_epoch().count(), std::memory_order_relaxed);
  add_one(state_.ended);
}

inline void WorkerService::flush() {
  const std::error_code error = data_.flush();
  full_ = !error && data_.wants_write();
  // EPIPE says nothing new: that ends with the reading. Anything else would leave callers without their answers.
  if (error && error != std::errc::broken_pipe && error != std::errc::connection_reset) connection_lost();
}

// What the control thread says --------------------------------------------------------------------

inline void WorkerService::hear() {
  while (const auto call = state_.cancelled_calls.pop()) cancel(*call);
  const std::uint32_t orders = state_.orders.load(std::memory_order_acquire);
  if ((orders & Order::stop) != 0) last_call_ = state_.last_call.load();
  if (orders == orders_) return;
  const std::uint32_t news = orders & ~std::exchange(orders_, orders);
  if ((news & Order::drain) != 0) {
    draining_ = true;
    int waiting = 0;
    ::ioctl(data_.fd(), FIONREAD, &waiting);
    intake_left_ = static_cast<std::size_t>(waiting);
  }
  if ((news & Order::parent_gone) != 0) parent_gone_ = true;
  if ((news & Order::cancel_calls) != 0) cancel_all();
}

inline void WorkerService::cancel(std::uint64_t id) {
  if (id > state_.last_read.load(std::memory_order_relaxed)) {
    early_cancels_.insert(id);  // it has overtaken its CALL
    return;
  }
  if (id == current_) current_cancelled_ = true;
  const auto found = coroutines_.find(id);
  if (found == coroutines_.end() || std::exchange(found->second->cancelled, true)) return;
  found->second->cancellation.emit(asio::cancellation_type::terminal);
}

inline void WorkerService::cancel_all() {
  cancelling_ = true;
  std::vector<std::uint64_t> ids;
  for (const auto& [id, call] : coroutines_) ids.push_back(id);
  for (const std::uint64_t id : ids) cancel(id);
}

inline void WorkerService::connection_lost() {
  lost_ = true;
  state_.data_lost.store(true);
  state_.control_bell.ring();
}

// After each step ---------------------------------------------------------------------------------

inline void WorkerService::go_on() {
  over_.clear();
  if (data_.wants_write() && !full_) flush();
  if (full_ && !parent_gone_) watch_writable();
  if (held_ && !full_ && !parent_gone_) return go_on_later();
  if (done()) return finish();
  if (!held_ && !all_read()) watch_data();
}

/// No further CALL is for this worker.
inline bool WorkerService::all_read() const noexcept {
  if (lost_ || parent_gone_) return true;
  if (!draining_) return false;
  if ((orders_ & Order::stop) != 0) return state_.last_read.load(std::memory_order_relaxed) >= last_call_;
  return intake_left_ == 0;
}

inline bool WorkerService::done() const noexcept {
  if (!draining_ || !all_read() || !coroutines_.empty()) return false;
  return parent_gone_ || (!held_ && !data_.wants_write());
}

inline void WorkerService::finish() {
  const std::uint32_t before = state_.orders.fetch_or(Order::finished);
  if ((before & (Order::stop | Order::cut)) == Order::stop) {
    const ControlReply reply = stop_reply(state_, false);
    while (!reply.send(state_.control.get())) {
      pollfd writable{state_.control.get(), POLLOUT, 0};
      ::poll(&writable, 1, -1);
    }
  }
  // Otherwise the control thread has a bound for the rest already.
  if ((before & Order::bounded) == 0) state_.control_bell.ring();
  finished_ = true;
  context_.stop();
}

}  // namespace drover::inline v1::detail
