// Package infra holds the AWS templates, and tests that read them as an auditor would.
// It refuses, in these tests, a right that no function uses, a call that no role allows, and anything public but the function URLs.
package infra
