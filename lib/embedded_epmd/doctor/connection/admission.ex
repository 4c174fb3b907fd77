defmodule EmbeddedEpmd.Doctor.Connection.Admission do
  @moduledoc false
  # The step `:handshake`: whether the other node accepts this one. A probe, a hidden node with a name of its own,
  # performs the handshake. Its name is the same for the life of this VM, since the other node creates an atom for it.

  import EmbeddedEpmd.Doctor.Finding

  alias EmbeddedEpmd.Doctor.Connection.{Cookie, Handshake, Reach, Tls}
  alias EmbeddedEpmd.Doctor.{Connection, NetworkError}

  # In bytes. The other node makes an atom of the probe's full name.
  @longest_atom 255
  # In bytes: how much of this node's name the probe's shows.
  @shown 40

  @spec examine(Connection.state()) :: Connection.step()
  def examine(state) do
    # A new creation marks each probe as a new incarnation of the same node.
    state = Map.merge(state, %{probe: probe(state), creation: rem(System.unique_integer([:positive]), 0xFFFFFF00) + 4})

    with {:ok, link} <- secure(state),
         state = %{state | link: link},
         :ok <- greet(state),
         {:ok, challenge} <- challenge(state),
         :ok <- prove(state, challenge) do
      {[ok("#{state.node} lets the probe in#{if state.tls, do: ", over TLS"}: the cookies are the same.")],
       Map.put(state, :admitted, true)}
    else
      {:stop, finding} -> {[finding], state}
    end
  end

  # With this node's host, since the other node may allow that host only.
  defp probe(state) do
    [name, host] =
      if state.here, do: String.split(Atom.to_string(state.here), "@"), else: ["mix", to_string(:net_adm.localhost())]

    probe_name(name, host, System.pid())
  end

  @doc false
  @spec probe_name(String.t(), String.t(), String.t()) :: String.t()
  def probe_name(name, host, pid) do
    room = @longest_atom - byte_size("@" <> host)
    shown = fit(name, min(@shown, room - byte_size("doctor--" <> pid)))
    fit("doctor-#{shown}-#{pid}", room) <> "@" <> host
  end

  defp fit(_text, bytes) when bytes <= 0, do: ""
  defp fit(text, bytes) when byte_size(text) <= bytes, do: text
  defp fit(text, bytes), do: text |> String.slice(0..-2//1) |> fit(bytes)

  defp secure(%{tls: false, link: link}), do: {:ok, link}

  defp secure(%{tls: true} = state) do
    with {:error, reason} <- Tls.secure(state) do
      {:stop, if(plain?(state), do: they_are_plain(state), else: Tls.refused(state, reason))}
    end
  end

  defp plain?(%{ip: ip, port: port} = state) do
    with {:ok, link} <- Reach.open(ip, port) do
      answer = Handshake.greet(link, state.probe, state.creation)
      Handshake.close(link)
      match?({:ok, _}, answer)
    else
      {:error, _} -> false
    end
  end

  ## The name

  defp greet(state) do
    case Handshake.greet(state.link, state.probe, state.creation) do
      {:ok, status} when status in [:ok, :ok_simultaneous] -> :ok
      # The other node has not noticed the end of the last probe yet.
      {:ok, :alive} -> with({:error, reason} <- Handshake.supersede(state.link), do: {:stop, broken(state, reason)})
      {:ok, :not_allowed} -> {:stop, not_allowed(state)}
      {:ok, status} -> {:stop, unwilling(state, status)}
      {:error, :tls} -> {:stop, they_are_tls(state)}
      # In TLS 1.3 the server's alert about a certificate may come after the client's handshake is done.
      {:error, {:tls_alert, _} = reason} -> {:stop, Tls.refused(state, reason)}
      {:error, reason} -> {:stop, if(tls_there?(state), do: they_are_tls(state), else: broken(state, reason))}
    end
  end

  defp tls_there?(%{tls: tls} = state), do: not tls and Reach.tls?(state.ip, state.port)

  defp not_allowed(state) do
    problem(
      "#{state.node} does not allow #{state.probe}, the probe: status not_allowed.",
      "It accepts only nodes that its :net_kernel.allow/1 names, or it needs a newer OTP than #{otp()}. " <>
        "If it allows this node by name, and not its host, only the probe is refused.",
      "The log there says which of the two it is. Call :net_kernel.allowed() there, and allow this node or its host."
    )
  end

  defp unwilling(state, status) do
    problem(
      "#{state.node} answers the probe with the status #{status_text(status)}.",
      "It is just connecting to a node of that name itself, or cannot accept a connection now.",
      "Ask again in a few seconds. If it stays so, look at the log there."
    )
  end

  defp status_text({:unknown, status}), do: inspect(status)
  defp status_text(status), do: to_string(status)

  defp they_are_tls(state) do
    problem(
      "#{state.node} speaks TLS, and this VM does not.",
      "Its distribution is inet_tls or inet6_tls, that of this VM is not encrypted.",
      "Start both with -proto_dist inet_tls and its options, or none."
    )
  end

  defp they_are_plain(state) do
    problem(
      "This VM speaks TLS, and #{state.node} does not.",
      "Its distribution is not encrypted, that of this VM is inet_tls or inet6_tls.",
      "Start both with -proto_dist inet_tls and its options, or none."
    )
  end

  defp broken(state, reason) when reason in [:timeout, :etimedout] do
    problem(
      "#{state.node} takes the connection, and says nothing.",
      "Its VM hangs or is stopped, or another program has that port and waits for more data.",
      "Look there at who owns port #{state.port}, and at the process of the node."
    )
  end

  defp broken(state, {:unexpected, bytes}) do
    problem(
      "Whoever answers for #{state.node} is no Erlang node: it says #{inspect(bytes)}.",
      "Another program has the port: the node has ended and its port was reused, or the address is another machine's.",
      "Look there at who owns port #{state.port}."
    )
  end

  defp broken(state, reason) do
    problem(
      "Whoever takes connections for #{state.node} ends them at the first message: #{NetworkError.format(reason)}.",
      "No node of OTP 23 or later listens there, but an older one, a node that is stopping, a forwarder with nobody " <>
        "behind it, or another program.",
      "Look there at who owns port #{state.port}, and at the log of the node."
    )
  end

  ## The challenge

  defp challenge(state) do
    {_, mandatory} = Handshake.flags()

    case Handshake.challenge(state.link) do
      {:ok, %{name: name}} when name != state.node ->
        {:stop, somebody_else(state, name)}

      {:ok, challenge} ->
        case Handshake.missing(mandatory, challenge.flags) do
          0 -> {:ok, challenge}
          missing -> {:stop, too_old(state, missing)}
        end

      {:error, :old} ->
        {:stop, too_old(state, nil)}

      {:error, reason} ->
        {:stop, broken(state, reason)}
    end
  end

  defp somebody_else(state, name) do
    problem(
      "At that port the node #{name} answers, and not #{state.node}.",
      "OTP refuses such a connection. The port was reused by another node, or an endpoint or a forwarder leads to it.",
      "Ask for #{name}, or correct the EPMD or the setting that gives #{state.node} the port #{state.port}."
    )
  end

  defp too_old(state, missing) do
    flags = if missing, do: ": it lacks the flags 0x#{Integer.to_string(missing, 16)}", else: ""

    problem(
      "#{state.node} is too old for this VM#{flags}.",
      "OTP #{otp()} requires what that node's OTP does not have. OTP promises compatibility over two major versions only.",
      "Upgrade the OTP of the older node."
    )
  end

  ## The cookie

  defp prove(state, challenge) do
    with cookie when cookie != :none <- Cookie.of(state),
         :ok <- Handshake.prove(state.link, challenge, cookie) do
      :ok
    else
      :none -> {:stop, Cookie.missing(state)}
      {:error, :timeout} -> {:stop, broken(state, :timeout)}
      {:error, _} -> {:stop, Cookie.differs(state)}
    end
  end

  defp otp, do: :erlang.system_info(:otp_release)
end
