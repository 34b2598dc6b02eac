#pragma once

#include <cstddef>
#include <cstdint>

#include <asio/io_context.hpp>

#include <drover/wire/channel.hpp>
#include <drover/wire/frame.hpp>
#include <drover/worker/detail/call_runner.hpp>
#include <drover/worker/detail/call_waits.hpp>
#include <drover/worker/detail/coroutine_calls.hpp>
#include <drover/worker/detail/hook.hpp>
#include <drover/worker/detail/incoming_frames.hpp>
#include <drover/worker/detail/loop_control.hpp>
#include <drover/worker/detail/outgoing_frames.hpp>
#include <drover/worker/detail/routine_table.hpp>
#include <drover/worker/detail/shared_state.hpp>
#include <drover/worker/detail/stream_loop.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The main thread of a worker: decides when frames are read, sent and waited for, until the control thread sets the
/// drain flag and no call is in flight any more. CallRunner runs the calls.
///
/// A call that was sent ahead waits until the calls before it have ended and their RESULTs are sent, see ahead_flag.
class CallLoop final : CallWaits::Listener, LoopControl, StreamLoop::Cancellations {
 public:
  CallLoop(WorkerState& state, const RoutineTable& routines, const WorkerHooks& hooks);

  /// Runs the start hooks on this loop. Throws what they throw, and the exceptions of other user handlers on it.
  void prepare();
  /// Sends HELLO. Throws std::system_error if the process is out of threads or descriptors.
  void begin();
  /// Runs calls, and returns once drained and the stop hooks have ended. Throws the exceptions of user handlers on this
  /// loop.
  void run();

 private:
  // Reading.
  inline void readable() override;
  void watch_data() { waits_.watch_data(runner_.begun() != 0); }
  bool receive();
  std::size_t take_frames();
  void accept(const Frame& frame);

  // Flags from the control thread.
  inline void notified() override;
  inline void carry_out_flags() override;
  void wait_failed() override { connection_lost(); }
  inline void connection_lost() override;
  void cancel_all();
  void take_no_more();
  bool is_cancelled(std::uint64_t call) const noexcept override { return runner_.is_cancelled(call); }

  // After each step: send, then wait for more, or finish.
  void go_on();
  inline void writable() override;
  inline void turn_came() override;
  bool must_wait();
  bool all_read() const noexcept;
  bool done() const noexcept;
  void wind_up();
  void finish();

  const RoutineTable& routines_;
  const WorkerHooks& hooks_;
  const std::size_t limit_;
  CoroutineCalls coroutines_;  // before the context, whose coroutine frames refer to them

  asio::io_context context_{1};
  Channel& data_;
  CallWaits waits_;
  IncomingFrames incoming_;
  OutgoingFrames outgoing_;
  StreamLoop streams_;
  CallRunner runner_;

  std::uint64_t last_call_ = 0;  // from the STOP frame
  bool winding_up_ = false;      // the stop hooks run, or have ended
  bool finished_ = false;
};

}}}  // namespace drover::v1::detail

#include <drover/worker/detail/call_loop.ipp>
