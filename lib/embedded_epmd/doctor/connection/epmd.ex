defmodule EmbeddedEpmd.Doctor.Connection.Epmd do
  @moduledoc false
  # The step `:epmd`: whether the EPMD of the other host knows the node's port.

  import EmbeddedEpmd.Doctor.Finding

  alias EmbeddedEpmd.Boot.{Client, HostAddress, Lifecycle}
  alias EmbeddedEpmd.Discovery
  alias EmbeddedEpmd.Doctor.Connection.{Address, Handshake, Reach}
  alias EmbeddedEpmd.Doctor.{Connection, Departed, Facts, NetworkError, Unregistered}

  # How many of the names that are registered there are shown.
  @shown 5
  # How many are compared with the name that is missing. Who answers there may list a million.
  @compared 1_000
  @near 0.8
  @default_port 4_369

  @spec examine(Connection.state()) :: Connection.step()
  # An endpoint has given the port.
  def examine(%{port: _} = state), do: {[], state}

  def examine(state) do
    case :erl_epmd.listen_port_please(String.to_charlist(state.name), String.to_charlist(state.host)) do
      {:ok, port} when port != 0 ->
        found =
          ok("All nodes are taken to have port #{port} (-erl_epmd_port or erl_epmd_node_listen_port): nobody is asked.")

        {[found], Map.merge(state, %{port: port, version: 6})}

      _ when state.discovery in [Discovery, :erl_epmd] ->
        ask(state, epmd_port(state.discovery))

      _ ->
        judge(state, inspect(state.discovery), state.discovery.port_please(String.to_charlist(state.name), state.ip))
    end
  end

  # OTP's client knows only the port of the flag, which `erl` makes of ERL_EPMD_PORT.
  defp epmd_port(:erl_epmd) do
    with {:ok, [[port | _] | _]} <- :init.get_argument(:epmd_port),
         {port, ""} <- Integer.parse(to_string(port)) do
      port
    else
      _ -> @default_port
    end
  end

  defp epmd_port(Discovery) do
    Lifecycle.port()
  rescue
    ArgumentError -> @default_port
  end

  # Connects first, to tell a port that cannot be reached from an EPMD that does not answer.
  defp ask(%{ip: ip} = state, port) do
    where = "Port #{port} of #{Address.format_ip(ip)}"

    case Reach.open(ip, port) do
      {:ok, link} ->
        Handshake.close(link)
        judge(Map.put(state, :epmd, port), where, Client.port(state.name, ip, port, Reach.timeout()))

      {:error, reason} ->
        {[unreachable(reason, where, port)], state}
    end
  end

  defp unreachable(reason, where, port) do
    {what, why} = Reach.explain(reason, where)

    action =
      case reason do
        :econnrefused ->
          "Check there that an EPMD listens at that address (ss -ltn 'sport = :#{port}'), and not at 127.0.0.1 only " <>
            "(ERL_EPMD_ADDRESS, :addresses), and that both hosts have the same ERL_EPMD_PORT."

        _ ->
          "Open port #{port} from this machine to that one, and the port of the node, or correct the address."
      end

    problem(what, "#{why} That is where the EPMD is asked for the node's port.", action)
  end

  defp judge(state, where, {:port, port, version}) when version >= 6 do
    {[ok("#{where}: the EPMD knows #{state.name}, with port #{port}.")],
     Map.merge(state, %{port: port, version: version})}
  end

  defp judge(state, where, {:port, _port, version}) do
    spoken = if version == 0, do: "no known version", else: "version #{version}"

    finding =
      problem(
        "#{where}: the EPMD knows #{state.name}, which speaks #{spoken} of the distribution protocol.",
        "This VM, OTP #{:erlang.system_info(:otp_release)}, speaks version 6, as OTP 23 and later do.",
        "Upgrade the OTP of that node."
      )

    {[finding], state}
  end

  defp judge(state, where, :noport) do
    own? = HostAddress.own?(state.ip) and state[:epmd] == epmd_port(Discovery)
    {[unknown(state, where, if(own?, do: found_here(state), else: :elsewhere))], state}
  end

  defp judge(state, where, {:error, reason}) when reason in [:timeout, :etimedout] do
    finding =
      problem(
        "#{where} takes connections, and answers nothing within #{div(Reach.timeout(), 1_000)} seconds.",
        "The EPMD there hangs or is stopped, or it is another program that waits for more data.",
        "Look there at who owns the port, and end it if it hangs."
      )

    {[finding], state}
  end

  defp judge(state, where, {:error, reason}) do
    said = if reason == :noport, do: "an answer that is none", else: NetworkError.format(reason)

    finding =
      problem(
        "#{where} takes connections, but is no EPMD, or one that does not answer this host: #{said}.",
        "Another program has the port, a forwarder with nobody behind it, or an EPMD that lets only some networks ask (:allow).",
        "Look there at who owns the port, and at :allow."
      )

    {[finding], state}
  end

  # What this host knows of a node that its EPMD does not know.
  defp found_here(%{name: name} = state) do
    case Enum.find(Facts.host().unregistered, &(hd(String.split(&1.node, "@")) == name)) do
      nil ->
        facts = Facts.departed()
        left = Enum.find(facts.departed, &(&1.name == name))
        if left, do: {:left, left, facts}, else: :elsewhere

      vm ->
        {:runs, vm, state.epmd}
    end
  end

  defp unknown(_state, where, {:runs, vm, port}) do
    finding = Unregistered.finding(vm, port)
    %{finding | status: :problem, what: "#{where}: #{finding.what}"}
  end

  defp unknown(_state, where, {:left, left, %{now: now, dumps: dumps}}),
    do: problem("#{where}: #{Departed.sentence(left, now)}", Departed.why(left), Departed.remedy(dumps[left.name]))

  defp unknown(state, where, :elsewhere) do
    problem(
      "#{where}: the EPMD does not know #{state.name}.#{names(state)}",
      "No node of that name is registered there: it does not run, has another name, or is registered with another EPMD.",
      "Look there whether it runs, what Node.self() gives, and with which EPMD it is registered (EmbeddedEpmd.doctor())."
    )
  end

  # The EPMD may list names to its own host only.
  defp names(%{epmd: port} = state) do
    case Client.names(state.ip, port, Reach.timeout()) do
      {:ok, []} -> " It knows no name at all, or does not list them to this host."
      {:ok, names} -> names |> Enum.map(&elem(&1, 0)) |> near(state.name)
      {:error, _} -> ""
    end
  end

  defp names(_state), do: ""

  @doc false
  @spec near([String.t()], String.t()) :: String.t()
  def near(names, name) do
    alike =
      names
      |> Enum.take(@compared)
      |> Enum.map(&{String.jaro_distance(&1, name), &1})
      |> Enum.filter(fn {distance, _} -> distance >= @near end)
      |> Enum.sort(:desc)
      |> Enum.map(&elem(&1, 1))

    case {alike, names} do
      {[_ | _], _} -> " It knows #{alike |> Enum.take(@shown) |> Enum.join(", ")}, which is near."
      {[], names} when length(names) <= @shown -> " It knows #{names |> Enum.sort() |> Enum.join(", ")}."
      {[], names} -> " It knows #{length(names)} others, and none that is near."
    end
  end
end
