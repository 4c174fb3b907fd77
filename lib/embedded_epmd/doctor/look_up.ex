defmodule EmbeddedEpmd.Doctor.LookUp do
  @moduledoc false
  # Judges whether other nodes can look this one up, and whether clients such as `bin/app rpc` can register. Pure.

  import EmbeddedEpmd.Doctor.Finding

  alias EmbeddedEpmd.Doctor.{Finding, NetworkError, VmArgs}

  # How many registered names are shown.
  @shown 20

  @spec judge(map()) :: [Finding.t()]
  def judge(facts), do: List.flatten([own_name(facts), names(facts), host_name(facts)])

  defp own_name(%{look_up: nil}), do: []
  # With a fixed port nobody looks nodes up.
  defp own_name(%{fixed_port: port}) when port != nil, do: []

  defp own_name(%{look_up: %{host: {_, {:port, port, _}} = host}} = facts),
    do: [ok("At #{at(host)} #{who(facts)} is found, with port #{port}."), clients(facts)]

  defp own_name(%{look_up: %{host: {:error, reason}} = look_up} = facts) do
    finding =
      warning(
        "The host of #{look_up.node} has no address: #{explain({:error, reason})}.",
        "Nodes look it up there, and so do bin/app rpc, remote, stop and pid.",
        "Add it to /etc/hosts or to the DNS, or give the node a host that resolves."
      )

    if runs?(facts), do: [finding, clients(facts)], else: finding
  end

  defp own_name(facts), do: if(runs?(facts), do: [not_found(facts), clients(facts)], else: absent(facts))

  # If this VM is not a node, the release is examined, which may not run.
  defp runs?(%{node: :nonode@nohost, look_up: look_up, release: release}),
    do: release.process != nil or match?({_, {:port, _, _}}, look_up.loopback)

  defp runs?(_facts), do: true

  defp absent(%{look_up: %{node: node, host: host}}) do
    warning(
      "At #{at(host)} #{node} is not found: #{explain(answer(host))}.",
      "No process of this host was started under that name, as far as this user can see.",
      "Start the release, and ask again; if it runs, look at its log."
    )
  end

  defp not_found(%{look_up: %{host: host} = look_up} = facts) do
    what = "At #{at(host)} #{who(facts)} is not found: #{explain(answer(host))}#{though(facts)}."
    why = "Nodes that resolve this host to #{at(host)} cannot connect; bin/app rpc, remote, stop and pid do not work."
    # Another machine's address may be reachable for others, though not from here.
    finding = if look_up.own_address, do: &problem/3, else: &warning/3
    finding.(what, why, remedy(host))
  end

  defp though(%{look_up: %{loopback: loopback}, release: release}) do
    pid = if release, do: release.process

    case {pid, loopback} do
      {nil, {_, {:port, _, _}}} -> "; at #{at(loopback)} it is"
      {nil, _} -> ""
      {pid, {_, {:port, _, _}}} -> "; it runs as pid #{pid}, and is found at #{at(loopback)}"
      {pid, _} -> "; it runs as pid #{pid}"
    end
  end

  defp remedy({_, :noport}),
    do: "See in the log of the node why it is not registered, and with whom: another EPMD may have that address."

  defp remedy(host) do
    "Listen on #{at(host)} as well (:addresses or ERL_EPMD_ADDRESS), or give the node a host name that resolves elsewhere."
  end

  # OTP's client always registers at the loopback address, whatever the address of the node's host is.
  defp clients(%{look_up: %{host: {ip, _}, loopback: {ip, _}}}), do: []

  defp clients(%{look_up: %{loopback: {_, {:error, _}} = loopback}} = facts) do
    # Clients that do not listen do not register.
    if dist_listen(facts) == "false" do
      []
    else
      problem(
        "#{if facts.ipv6, do: "Distribution is over IPv6, but at", else: "At"} #{at(loopback)} nobody answers: " <>
          "#{explain(answer(loopback))}.",
        "Stock nodes register there, and bin/app rpc, remote, stop and pid, which cannot start.",
        "Listen there as well: add #{at(loopback)} to :addresses (ERL_EPMD_ADDRESS)."
      )
    end
  end

  defp clients(%{look_up: %{loopback: loopback}}),
    do: ok("At #{at(loopback)}, where clients register, an EPMD answers.")

  defp dist_listen(%{client_flags: flags}), do: VmArgs.value(flags, "-dist_listen")

  # In a VM that is a node, EmbeddedEpmd.names() lists them.
  defp names(%{node: :nonode@nohost, names: {:ok, [_ | _] = names}, port: port}) do
    {shown, more} = names |> Enum.map(&elem(&1, 0)) |> Enum.sort() |> Enum.split(@shown)
    more = if more == [], do: "", else: " and #{length(more)} more"
    ok("Registered on port #{port}: #{Enum.join(shown, ", ")}#{more}.")
  end

  defp names(_facts), do: []

  # Nodes with short names have this host name, even if the node's own name has another host.
  defp host_name(%{host: {name, {:error, _}}}) do
    warning(
      "The host name #{name} has no address.",
      "Short names (-sname) of other nodes are looked up under it.",
      "Add it to /etc/hosts or to the DNS, or use long names (-name) with an address."
    )
  end

  defp host_name(%{look_up: %{host: {ip, _}}, host: {_name, {ip, _}}}), do: []

  defp host_name(%{host: {name, {_, {:error, _}} = host}, status: %{role: role}}) when role in [:serving, :joined] do
    warning(
      "The host name #{name} is #{at(host)}, where nobody answers.",
      "Nodes with short names on this host look each other up there. Debian writes 127.0.1.1 into /etc/hosts.",
      "Add #{at(host)} to :addresses (ERL_EPMD_ADDRESS), or correct /etc/hosts."
    )
  end

  defp host_name(_facts), do: []

  defp who(%{node: :nonode@nohost, look_up: %{node: node}}), do: node
  defp who(_facts), do: "this node"

  defp at({ip, _answer}), do: to_string(:inet.ntoa(ip))
  defp answer({_ip, answer}), do: answer

  defp explain(:noport), do: "no such name is registered there"
  defp explain({:error, reason}), do: NetworkError.format(reason)
end
