defmodule EmbeddedEpmd.HangingTest do
  # These tests mostly wait, since a VM counts as hanging only after some time.
  use ExUnit.Case, async: true

  import Support.{Host, Rounds, Vm}

  setup do
    %{port: free_port()}
  end

  test "an owner that hangs is reported within 15 seconds, and followed when it is killed", %{port: port} do
    host = start_host(3, port, alone())
    for {_, member} <- host, do: supervise(member.vm)
    {owner, rest} = Map.pop!(host, owner(host))

    signal(owner.vm, owner.pid, "STOP")
    on_exit(fn -> System.cmd("kill", ["-9", owner.pid], stderr_to_stdout: true) end)
    stopped = System.monotonic_time(:millisecond)

    for {_, member} <- rest do
      eventually(fn -> not call(member.vm, EmbeddedEpmd, :status).owner_answers end)
      assert System.monotonic_time(:millisecond) - stopped < limit(15_000)
      assert %{role: :joined, names: nil} = call(member.vm, EmbeddedEpmd, :status)
    end

    signal(owner.vm, owner.pid, "KILL")
    assert_whole(rest, port)
    for {_, member} <- rest, do: assert(call(member.vm, EmbeddedEpmd, :status).owner_answers)
  end

  test "an owner that hangs for a moment stays the owner", %{port: port} do
    host = start_host(2, port, alone())
    {owner, rest} = Map.pop!(host, owner(host))
    [other] = Map.values(rest)

    signal(owner.vm, owner.pid, "STOP")
    on_exit(fn -> System.cmd("kill", ["-9", owner.pid], stderr_to_stdout: true) end)
    eventually(fn -> not call(other.vm, EmbeddedEpmd, :status).owner_answers end)
    signal(owner.vm, owner.pid, "CONT")
    eventually(fn -> call(other.vm, EmbeddedEpmd, :status).owner_answers end)
    assert call(other.vm, EmbeddedEpmd, :status).changes == 1
    assert_whole(host, port)
  end
end
