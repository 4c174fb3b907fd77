defmodule EmbeddedEpmd.HandshakeTest do
  # Answers that a real node cannot be made to give in a test, byte by byte as in OTP's "Distribution Protocol".
  use ExUnit.Case, async: true

  alias EmbeddedEpmd.Doctor.Connection.Handshake

  @probe "doctor-x-1@host"

  for {answer, status} <- [
        {"sok", :ok},
        {"sok_simultaneous", :ok_simultaneous},
        {"snok", :nok},
        {"snot_allowed", :not_allowed},
        {"salive", :alive},
        {"snamed:", {:unknown, "named:"}}
      ] do
    test "the status #{answer}" do
      link = against([message(unquote(answer))])
      assert Handshake.greet(link, @probe, 7) == {:ok, unquote(status)}
    end
  end

  test "the first message says a hidden node, its creation and its name" do
    link = against([message("sok")])
    {:ok, :ok} = Handshake.greet(link, @probe, 7)
    assert_receive {:got, <<size::16, ?N, flags::64, 7::32, 15::16, @probe>>}
    assert size == 1 + 8 + 4 + 2 + 15
    {sent, mandatory} = Handshake.flags()
    assert flags == sent
    # A hidden node does not have the flag PUBLISHED.
    assert Bitwise.band(flags, 1) == 0
    assert Handshake.missing(mandatory, flags) == 0
  end

  test "an alert, another protocol, silence, the end" do
    assert Handshake.greet(against([<<21, 3, 3, 0, 2, 2, 10>>]), @probe, 7) == {:error, :tls}
    assert Handshake.greet(against(["HTTP/1.1 400"]), @probe, 7) == {:error, {:unexpected, "HT"}}
    assert Handshake.greet(against([message("x")]), @probe, 7) == {:error, {:unexpected, "x"}}
    assert Handshake.greet(against([message("")]), @probe, 7) == {:error, {:unexpected, <<0, 0>>}}
    assert Handshake.greet(against([""], timeout: 200), @probe, 7) == {:error, :timeout}
    assert Handshake.greet(against([]), @probe, 7) == {:error, :closed}
  end

  test "bytes that come one by one are one message" do
    bytes = for <<byte <- message("sok")>>, do: <<byte>>
    assert Handshake.greet(against(bytes), @probe, 7) == {:ok, :ok}
  end

  test "the challenge of OTP 23 and later, with whatever follows, and that of earlier ones" do
    challenge = <<?N, 0x1_0000_0004::64, 99::32, 5::32, 5::16, "a@b.c", "later">>

    assert {:ok, %{name: "a@b.c", flags: 0x1_0000_0004, challenge: 99}} =
             Handshake.challenge(against([message(challenge)], asked: false))

    assert Handshake.challenge(against([message(<<?n, 5::16, 4::32, 99::32, "a@b.c">>)], asked: false)) ==
             {:error, :old}

    short = <<?N, 0::64, 99::32, 5::32, 50::16, "a@b.c">>
    assert Handshake.challenge(against([message(short)], asked: false)) == {:error, {:unexpected, short}}
  end

  test "a node that does not know the cookie is not believed" do
    assert Handshake.prove(against([message(<<?a, 0::128>>)]), %{challenge: 99}, :cookie) == {:error, :wrong_proof}
    assert Handshake.prove(against([]), %{challenge: 99}, :cookie) == {:error, :closed}
    assert_receive {:got, <<21::16, ?r, _ours::32, digest::binary-size(16)>>}
    assert digest == :erlang.md5("cookie99")
  end

  test "what one flag stands for is not missing" do
    # MANDATORY_25_DIGEST, V4_NC and UNLINK_ID.
    assert Handshake.missing(0x4 + 0x10000 + 0x1000000, 0x4000000) == 0
    assert Handshake.missing(0x4 + 0x10000, 0x4) == 0x10000
    assert Handshake.missing(0x4_0000_0000, 0x4000000) == 0x4_0000_0000
  end

  defp message(bytes), do: <<byte_size(bytes)::16, bytes::binary>>

  # A link to a peer that sends the first bytes it receives to this process, answers with these bytes, and closes. If
  # the only answer is "", it stays silent.
  defp against(answers, options \\ []) do
    test = self()
    {:ok, listener} = :gen_tcp.listen(0, [:binary, ip: {127, 0, 0, 1}, active: false, nodelay: true])
    {:ok, port} = :inet.port(listener)
    {:ok, socket} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])

    spawn_link(fn ->
      {:ok, peer} = :gen_tcp.accept(listener)
      send(test, :accepted)
      if Keyword.get(options, :asked, true), do: send(test, {:got, elem(:gen_tcp.recv(peer, 0), 1)})
      for answer <- answers, do: :ok = :gen_tcp.send(peer, answer)
      if answers == [""], do: Process.sleep(:infinity)
      :gen_tcp.close(peer)
    end)

    assert_receive :accepted, 5_000

    Handshake.with_timeout(
      %Handshake{transport: :gen_tcp, socket: socket, length_bits: 16},
      options[:timeout] || 5_000
    )
  end
end
