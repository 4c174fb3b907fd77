defmodule EmbeddedEpmd.Doctor.Exposed do
  @moduledoc false
  # Judges what this VM exposes: where its distribution and its EPMD listen, and from where they are reached. Pure.

  import EmbeddedEpmd.Doctor.Finding

  alias EmbeddedEpmd.Boot.HostAddress
  alias EmbeddedEpmd.Doctor.{Finding, Listener}

  # How many networks are shown: a host with containers has one for each.
  @shown 4

  @spec judge(map()) :: [Finding.t()]
  def judge(facts), do: List.flatten([distribution(facts), epmd(facts), disagree(facts), range(facts)])

  ## The distribution

  @doc "The finding about the distribution, by `distribution`, `networks`, `weak_cookie` and `local`."
  @spec distribution(map()) :: Finding.t() | []
  def distribution(%{distribution: nil}), do: []

  def distribution(%{distribution: %{closed: true} = listener} = facts) do
    weak = if facts.weak_cookie, do: ", and its cookie is weak, so that other users here may guess it"

    ok(
      "The distribution listens at #{listener.address}, port #{listener.port} (#{transport(listener)}): only this host reaches it#{weak}."
    )
  end

  def distribution(%{distribution: listener} = facts) do
    reached_from = Listener.reached_from(facts.networks, listener.ip)
    public = for {ip, _} <- known(reached_from), Listener.public?(ip), do: format_ip(ip)
    where = "port #{listener.port} (#{transport(listener)})"

    cond do
      reached_from == [] ->
        ok("The distribution listens on #{at(listener)}, #{where}: no network of this host leads there.")

      facts.weak_cookie ->
        warning(
          "Other hosts reach the distribution on #{at(listener)}, #{where}, and the cookie is weak.",
          "Whoever guesses it runs code in this VM. Weak is what is short, published as a default, or made of common words " <>
            "or the node's name.",
          "Give all nodes one of 20 random characters (RELEASE_COOKIE, or cookie: in mix.exs), or close this one with local: true."
        )

      facts.local == true ->
        warning(
          "local is true, but other hosts reach the distribution on #{at(listener)}, #{where}.",
          "inet_dist_use_interface or inet_dist_listen_options of kernel say so, and count first.",
          "Remove them, or local: true."
        )

      public != [] and not listener.tls and facts.local == nil ->
        warning(
          "The distribution listens on the public address #{shown(public)}, #{where}.",
          "Only the cookie protects it, and nothing that nodes send each other is encrypted.",
          "Close it (local: true), use TLS, or name an inner address (inet_dist_use_interface). If a firewall closes it, " <>
            "local: false ends this warning."
        )

      true ->
        ok(
          "The distribution listens on #{at(listener)}, #{where}: hosts of #{networks(reached_from)} reach it, if no firewall forbids it."
        )
    end
  end

  defp transport(%{tls: true}), do: "TLS"
  defp transport(_listener), do: "TCP, not encrypted"

  defp at(%{ip: ip}), do: if(any?(ip), do: "all addresses", else: format_ip(ip))

  ## The EPMD

  defp epmd(%{status: %{role: :serving, addresses: addresses}} = facts) do
    ips = Enum.map(addresses, &HostAddress.parse/1)
    reached_from = Enum.map(ips, &Listener.reached_from(facts.networks, &1))
    reached_from = if :unknown in reached_from, do: :unknown, else: Enum.uniq(Enum.concat(reached_from))

    cond do
      reached_from == [] ->
        ok("The EPMD is reached by this host only.")

      facts.allow == [] ->
        ok("The EPMD answers this host only (:allow), though #{networks(reached_from)} can connect to it.")

      facts.allow != nil ->
        ok("The EPMD answers lookups of #{shown(facts.allow)} (:allow).")

      true ->
        ok("The EPMD answers lookups of #{networks(reached_from)}, if no firewall forbids it.")
    end
  end

  defp epmd(_facts), do: []

  ## What does not go together

  # The node listens on loopback only, so nobody outside needs its port; but everybody may ask for it.
  defp disagree(
         %{distribution: %{closed: true} = listener, addresses: addresses, fixed_port: nil, allow: allow} = facts
       )
       when allow != [] do
    if facts.status.role in [:serving, :joined] and (addresses == [] or not Enum.all?(addresses, &closed?/1)) do
      where = if addresses == [], do: "all addresses", else: Enum.join(addresses, ", ")

      warning(
        "This node listens at #{listener.address} only, but the EPMD on #{where}.",
        "Other hosts cannot reach the node, and can still ask whether it is there, and for its port.",
        "If that is so for all nodes of this host, set local: true in each release (or ERL_EPMD_ADDRESS=127.0.0.1,::1), as " <>
          "the security guide says."
      )
    else
      []
    end
  end

  # A port is found without an EPMD, too.
  defp disagree(%{distribution: %{closed: false} = listener, addresses: [_ | _] = addresses, local: nil} = facts) do
    if facts.status.role in [:serving, :joined] and Enum.all?(addresses, &closed?/1) and
         Listener.reached_from(facts.networks, listener.ip) != [] do
      warning(
        "The EPMD listens at #{Enum.join(addresses, ", ")} only, but this node on #{at(listener)}.",
        "Other hosts cannot look the node up, and can still connect to its port, if they try all.",
        "Set local: true, which closes both, or local: false if that is meant so."
      )
    else
      []
    end
  end

  defp disagree(_facts), do: []

  defp range(%{port_range: {least, nil}}) when least != nil do
    warning(
      "inet_dist_listen_min is #{least}, and inet_dist_listen_max is not set.",
      "OTP takes that one port and no other: a second node of this host does not start.",
      "Set both, as in inet_dist_listen_min 9100 inet_dist_listen_max 9199."
    )
  end

  defp range(%{port_range: {nil, most}}) when most != nil do
    warning(
      "inet_dist_listen_max is #{most}, and inet_dist_listen_min is not set.",
      "OTP ignores it, and takes any port: a firewall that opens only a range keeps nodes from connecting.",
      "Set both, as in inet_dist_listen_min 9100 inet_dist_listen_max 9199."
    )
  end

  defp range(_facts), do: []

  ## Text

  defp closed?(address), do: HostAddress.loopback?(HostAddress.parse(address))
  defp any?(ip), do: Enum.all?(Tuple.to_list(ip), &(&1 == 0))

  defp known(:unknown), do: []
  defp known(networks), do: networks

  defp networks(:unknown), do: "networks that cannot be listed here (RestrictAddressFamilies= without AF_NETLINK)"
  defp networks(networks), do: shown(for {ip, bits} <- networks, do: "#{format_ip(ip)}/#{bits}")

  defp shown(texts) do
    {shown, more} = Enum.split(texts, @shown)
    Enum.join(shown, ", ") <> if(more == [], do: "", else: " and #{length(more)} more")
  end

  defp format_ip(ip), do: to_string(:inet.ntoa(ip))
end
