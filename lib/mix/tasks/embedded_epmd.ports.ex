defmodule Mix.Tasks.EmbeddedEpmd.Ports do
  @shortdoc "Prints the port plan, and rules for firewalls"

  @moduledoc """
  Prints which ports the nodes of this host have or had, and the firewall rules that let other hosts reach them.

      mix embedded_epmd.ports [FIRST..LAST] [--port PORT] [--only plan|nft|ufw|service]

  The range is by default that of `ports:` in `config.exs`. PORT is the EPMD's, by default that of `ERL_EPMD_PORT` or of
  `config.exs`, else 4369. If no EPMD answers there, the plan is empty.

  It prints the plan, a rule for nft, one for ufw, and a Kubernetes Service, or with `--only` one of these. If
  `config.exs` has `allow:`, the rules are for these networks; otherwise they let everybody in. Anybody who reaches a
  node and has its cookie can run code there.
  """

  use Mix.Task

  alias EmbeddedEpmd.Boot.Config.{Schema, Value}
  alias EmbeddedEpmd.Boot.{Client, HostAddress, Ports, Printable}
  alias Mix.EmbeddedEpmd, as: Project

  @timeout 5_000
  @parts ~w(plan nft ufw service)

  @impl Mix.Task
  def run(arguments) do
    {options, given} = Project.arguments!(arguments, [port: :integer, only: :string], ["FIRST..LAST"])
    config = %{Project.settings!() | port: Project.port!(options[:port])}
    range = range!(List.first(given), config)
    parts = parts!(options[:only])
    Mix.shell().info(Enum.map_join(parts, "\n\n", &part(&1, config, range)))
  end

  defp range!(nil, %{ports: nil}),
    do: Mix.raise("no range is set: give one, such as 9100..9199, or set ports in config.exs")

  defp range!(nil, %{ports: range}), do: range

  defp range!(text, _config) do
    %{kind: kind, expected: expected} = Schema.setting(:ports)

    case Value.read(kind, text) do
      {:ok, range} -> range
      _ -> Mix.raise("expected #{expected}, got: #{text}")
    end
  end

  defp parts!(nil), do: @parts
  defp parts!(part) when part in @parts, do: [part]
  defp parts!(part), do: Mix.raise("--only must be one of #{Enum.join(@parts, ", ")}, got: #{part}")

  defp part("plan", %{port: port}, range) do
    case rows(port, range) do
      [] ->
        "no node has or had a port of #{Ports.text(range)}, as far as an EPMD at port #{port} knows"

      rows ->
        width = rows |> Enum.map(fn {_port, name, _state} -> String.length(name) end) |> Enum.max()

        Enum.map_join([{"PORT", "NAME", ""} | rows], "\n", fn {port, name, state} ->
          String.trim_trailing("#{String.pad_leading("#{port}", 5)}  #{String.pad_trailing(name, width)}  #{state}")
        end)
    end
  end

  defp part("nft", %{port: port, allow: allow}, {first, last}) do
    for {family, networks} <- sources(allow) do
      from = if networks == :any, do: "", else: "#{family} saddr { #{Enum.join(networks, ", ")} } "
      "nft add rule inet filter input #{from}tcp dport { #{port}, #{first}-#{last} } accept"
    end
    |> lines(allow)
  end

  defp part("ufw", %{port: port, allow: allow}, {first, last}) do
    for {_family, networks} <- sources(allow), network <- List.wrap(networks) do
      "ufw allow proto tcp from #{network} to any port #{port},#{first}:#{last}"
    end
    |> lines(allow)
  end

  defp part("service", %{port: port}, {first, last}) do
    ports = [{"epmd", port} | for(port <- first..last, do: {"node-#{port}", port})]

    """
    apiVersion: v1
    kind: Service
    metadata:
      name: my-app
    spec:
      clusterIP: None
      publishNotReadyAddresses: true
      selector:
        app: my-app
      ports:
    """ <> Enum.map_join(ports, "\n", fn {name, port} -> "    - {name: #{name}, port: #{port}}" end)
  end

  # A rule of nft is for one family, where it names networks.
  defp sources(nil), do: [{nil, :any}]

  defp sources(networks) do
    {ipv6, ipv4} = Enum.split_with(networks, &String.contains?(&1, ":"))
    for {family, [_ | _] = networks} <- [{"ip", ipv4}, {"ip6", ipv6}], do: {family, networks}
  end

  defp lines([], []), do: "# allow: [] lets no other host in"
  defp lines(rules, _allow), do: Enum.join(rules, "\n")

  defp rows(epmd, {first, last}) do
    ip = HostAddress.loopback()
    registered = listed(Client.names(ip, epmd, @timeout), "registered")
    left = listed(Client.departed(ip, epmd, @timeout), "left")

    # A port belongs to the node that has it, else to the one that left it last.
    (registered ++ Enum.reverse(left))
    |> Enum.filter(fn {port, _name, _state} -> port in first..last end)
    |> Enum.uniq_by(fn {port, _name, _state} -> port end)
    |> Enum.sort()
  end

  defp listed({:ok, nodes}, state), do: for({name, port} <- nodes, do: {port, Printable.text(name), state})
  defp listed({:error, _reason}, _state), do: []
end
