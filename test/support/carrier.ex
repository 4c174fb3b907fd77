defmodule Support.Carrier do
  @moduledoc """
  The carriers of the distribution that OTP 29 has beside its older modules: `-proto_dist inet_epmd`.
  """

  @doc "Whether this OTP has all of them."
  def available?, do: List.to_integer(:erlang.system_info(:otp_release)) >= 29

  @doc "The flags of a carrier: `socket` or `tls_socket`."
  def flags("tls_socket" = carrier),
    do: ~w(-proto_dist inet_epmd -inet_epmd #{carrier} -ssl_dist_optfile #{Support.Tls.options()})

  def flags(carrier), do: ~w(-proto_dist inet_epmd -inet_epmd #{carrier})
end
