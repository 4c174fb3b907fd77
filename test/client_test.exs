defmodule EmbeddedEpmd.ClientTest do
  # What is asked of an EPMD that lies ends in time, takes no more memory than an answer can need, and is answered as
  # OTP's client answers it.
  use ExUnit.Case, async: true

  import Support.{Attacker, Vm}

  alias EmbeddedEpmd.Boot.Client
  alias EmbeddedEpmd.Discovery
  alias EmbeddedEpmd.Doctor.Connection.{Handshake, HiddenCall, Reach}

  @localhost {127, 0, 0, 1}
  @timeout 1_000
  # For what ends by itself or by its time-out, on a busy machine; milliseconds. What does not would never end.
  @soon 20_000
  @mebibyte 1024 * 1024
  # The most that the sockets of both sides hold on Linux (tcp_wmem and tcp_rmem), with room to spare.
  @in_sockets 16 * @mebibyte

  test "lookups are answered as by OTP's client" do
    cases = [
      {[found("a")], {:port, 4711, 6}, :same},
      {each_byte(found("a")), {:port, 4711, 6}, :same},
      {[found("a", versions: {9, 7})], {:port, 4711, 0}, :same},
      # The length of its name is wrong, or there is more behind it.
      {[binary_part(found("a"), 0, 12)], {:port, 4711, 6}, :same},
      {[binary_part(found("a"), 0, 10), <<0xFFFF::16>>, "a"], {:port, 4711, 6}, :same},
      {[found("another"), :binary.copy("x", 100_000)], {:port, 4711, 6}, :same},
      {[binary_part(found("a"), 0, 11)], :noport, :same},
      {[<<?w, 0>>], :noport, :same},
      {[<<?w, 1>>], :noport, :same},
      {[<<?w>>, <<255>>, "and why"], :noport, :same},
      {[<<?w>>], {:error, :noport}, :closed},
      {[], {:error, :noport}, :closed},
      {["220 mail"], {:error, :noport}, {:error, {:garbage_from_epmd, ~c"220 mail"}}}
    ]

    # One EPMD, whose lie is chosen by the name that is asked for: OTP's client knows one port.
    port = answers(fn <<_::16, ?z, number::binary>> -> cases |> Enum.at(String.to_integer(number)) |> elem(0) end)
    vm = start_plain(port)

    for {{lie, ours, otp}, number} <- Enum.with_index(cases) do
      assert Client.port("#{number}", @localhost, port, @soon) == ours, inspect(lie)
      theirs = call(vm, :erl_epmd, :port_please, [~c"#{number}", @localhost, @soon])
      assert theirs == if(otp == :same, do: ours, else: otp), inspect(lie)
    end
  end

  test "a lookup ends with its reply, whatever follows and whoever does not close" do
    for {lie, expected} <- [
          {endless(found("a")), {:port, 4711, 6}},
          {[found("a"), :stay], {:port, 4711, 6}},
          {[<<?w, 1>>, :stay], :noport},
          {endless(), {:error, :noport}},
          {["220 mail.example ESMTP\r\n", :stay], {:error, :noport}}
        ] do
      sent = :counters.new(1, [])
      port = answers(lie, sent: sent)
      assert ends(fn -> Client.port("a", @localhost, port, :infinity) end) == expected
      assert :counters.get(sent, 1) <= @in_sockets
    end
  end

  test "the time-out holds, however the bytes come" do
    for lie <- [[:stay], drip(found("a"), 2 * @timeout), drip(:binary.copy(<<0>>, 1_000), 50)] do
      port = answers(lie)
      assert ends(fn -> Client.port("a", @localhost, port, @timeout) end) in [{:error, :timeout}, {:error, :noport}]
      assert ends(fn -> Client.names(@localhost, port, @timeout) end) == {:error, :timeout}
    end

    # Also for one that sends faster than is read.
    port = answers(endless(listing([]), "a"))
    assert ends(fn -> Client.names(@localhost, port, @timeout) end) in [{:error, :timeout}, {:error, :too_long}]
    # The control.
    slowly = answers(drip(found("a"), 20))
    assert Client.port("a", @localhost, slowly, @soon) == {:port, 4711, 6}
  end

  test "a listing has a limit, and a long one below it is whole" do
    sent = :counters.new(1, [])
    port = answers(endless(listing(["a"])), sent: sent)
    assert ends(fn -> Client.names(@localhost, port, :infinity) end) == {:error, :too_long}
    assert :counters.get(sent, 1) <= 16 * @mebibyte + @in_sockets

    names = for number <- 1..30_000, do: String.pad_leading("#{number}", 250, "n")
    assert byte_size(listing(names)) < 16 * @mebibyte
    port = answers([listing(names)])
    assert Client.names(@localhost, port, @soon) == {:ok, for(name <- names, do: {name, 4711})}
  end

  test "in a listing only lines that name a node count" do
    lines = [
      "name a at port 1\n",
      "name b at port 65536\n",
      "name c at port -1\n",
      "name d at port 1x\n",
      "name e\n",
      "active name <f> at port 2\n",
      "\n\n",
      ["name g at port ", :binary.copy("9", 1_000_000), "\n"],
      ["name ", 0xFF, "\e[2J at port 3\n"],
      "name i at port 4"
    ]

    port = answers([[<<4369::32>>, lines]])

    assert ends(fn -> Client.names(@localhost, port, @soon) end) ==
             {:ok, [{"a", 1}, {<<0xFF, "\e[2J">>, 3}, {"i", 4}]}

    for other <- [[""], [<<0>>], [<<0, 0, 1>>], ["220 mail.example ESMTP\r\n", :stay]] do
      port = answers(other)
      assert ends(fn -> Client.names(@localhost, port, @soon) end) == {:error, :address}
    end
  end

  test "of the names that left only lines that name one count, however many others there are" do
    lines = [
      "active name     <a> at port 1, fd = 7\n\0",
      "old/unused name <b>, port = 2, fd = 7 \n\0",
      "old/unused name <c>, port = 65536, fd = 7 \n\0",
      "old/unused name <d>, port = x, fd = 7 \n\0",
      "old/unused name <e> is gone \n\0",
      ["old/unused name <f>, port = ", :binary.copy("9", 1_000_000), "\n\0"],
      ["old/unused name <", :binary.copy(">, port = ", 100_000), "\n\0"],
      "old/unused name <g>, port = 1>, port = 3, fd = -1 \n\0"
    ]

    port = answers([[<<4369::32>>, lines, :binary.copy("\n\0", div(@mebibyte, 4))]])
    listed = fn -> Client.departed(@localhost, port, @soon) end

    # Such a listing ends a process that keeps its lines.
    {_, monitor} =
      :erlang.spawn_opt(fn -> exit(listed.()) end, [:monitor, max_heap_size: %{size: @mebibyte, error_logger: false}])

    assert_receive {:DOWN, ^monitor, :process, _, result}, @soon
    assert result == {:ok, [{"b", 2}, {"g>, port = 1", 3}]}
  end

  test "the time-out also holds for a lookup that asks an owner again and again" do
    begun = :atomics.new(1, [])

    # As one that ends, and after 2.5 seconds as one that hangs.
    port =
      answers(fn
        <<_::16, ?x, _::binary>> -> [<<?v, 0, 7::32>>, :stay]
        <<_::16, "zvictim">> -> if since(begun) < 2_500, do: [], else: [:stay]
        <<_::16, ?z, _::binary>> -> [found("other")]
        _ -> []
      end)

    # A VM that boots as a node ends if its owner takes longer than two seconds to answer, as this busy VM may.
    vm = start_unnamed(port)
    hush(vm)
    eventually(fn -> match?({:ok, _}, become_node(vm, unique("joined"))) end)
    {took, answer} = call(vm, :timer, :tc, [Discovery, :port_please, [~c"victim", @localhost, 3_000]])
    assert {:error, _} = answer
    # Less than what is left when it hangs and the whole time-out.
    assert took < 5_000_000
  end

  test "the doctor's call of another node ends in time, and unpacks nothing" do
    tick = <<0::32>>
    answer = :erlang.term_to_binary({:call, :fine})
    control = <<112, :erlang.term_to_binary({2, :"", self()})::binary>>
    framed = fn message -> <<byte_size(message)::32, message::binary>> end

    assert call_of([framed.(control <> answer)]) == {:ok, :fine}
    assert call_of([tick, framed.("other"), framed.(control <> answer)]) == {:ok, :fine}
    assert call_of(endless(tick, :binary.copy(tick, 16_384)), @timeout) == {:error, :timeout}
    assert call_of(endless("", :binary.copy(framed.(control <> <<131, 106>>), 1_000)), @timeout) == {:error, :timeout}
    assert call_of([<<1_000_001::32>>]) == {:error, :too_long}

    bomb = :erlang.term_to_binary({:call, :binary.copy(<<0>>, 64 * @mebibyte)}, [:compressed])
    assert byte_size(bomb) < 100_000
    assert call_of([framed.(control <> bomb)]) == {:error, :unreadable}
    assert call_of([framed.(<<112, bomb::binary>>)]) == {:error, :unreadable}
  end

  # The milliseconds since it was asked for the first time.
  defp since(begun) do
    now = System.monotonic_time(:millisecond)
    with :ok <- :atomics.compare_exchange(begun, 1, 0, now), do: 0, else: (first -> now - first)
  end

  defp call_of(lie, timeout \\ @soon) do
    {:ok, link} = Reach.open(@localhost, answers(Stream.concat(lie, [:stay])))
    link = Handshake.with_timeout(link, timeout)
    result = ends(fn -> HiddenCall.call(link, "doctor-x-1@host", 7, :net_kernel, :node_info, []) end)
    Handshake.close(link)
    result
  end

  # What a function returns that must end by itself.
  defp ends(function), do: function |> Task.async() |> Task.await(@soon)
end
