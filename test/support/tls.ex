defmodule Support.Tls do
  @moduledoc """
  Certificates and options for a distribution over TLS, as in OTP's "Using TLS for Erlang Distribution". They are
  deleted at the end of the test.
  """

  @doc "A value for -ssl_dist_optfile, with a new certificate and authority. The arguments are the `verify` of each side."
  def options(verify \\ :verify_none, client_verify \\ nil) do
    {certificate, authorities} = make()
    options = [certfile: to_charlist(certificate), cacertfile: to_charlist(authorities)]
    server = options ++ [verify: verify, fail_if_no_peer_cert: verify == :verify_peer]
    client = options ++ [verify: client_verify || verify]
    path = Path.join(Path.dirname(certificate), "dist.conf")
    File.write!(path, :io_lib.format("~tp.~n", [[server: server, client: client]]))
    path
  end

  @doc "A file with a certificate and its key."
  def certificate, do: elem(make(), 0)

  defp make do
    folder = Support.Folder.new("tls")
    # The defaults of pkix_test_data are too weak for current versions of OTP.
    modern = [digest: :sha256, key: {:namedCurve, :secp256r1}]
    chain = %{root: modern, intermediates: [], peer: modern}
    %{server_config: config} = :public_key.pkix_test_data(%{server_chain: chain, client_chain: chain})
    {type, key} = config[:key]
    certificate = [{:Certificate, config[:cert], :not_encrypted}, {type, key, :not_encrypted}]
    # Both sides use the server's chain, so its authorities are needed, and not those of the client's chain.
    authorities = for authority <- config[:cacerts], do: {:Certificate, authority, :not_encrypted}
    {write(folder, "node.pem", certificate), write(folder, "authorities.pem", authorities)}
  end

  defp write(folder, name, entries) do
    path = Path.join(folder, name)
    File.write!(path, :public_key.pem_encode(entries))
    path
  end
end
